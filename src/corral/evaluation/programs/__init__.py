"""Programs from files: checked and rebuilt before torch sees them, then loaded and run in a process without rights."""

from corral.evaluation.programs.files import load_file
from corral.evaluation.programs.sealed import Sealed

__all__ = ["Sealed", "load_file"]
