"""Programs from files: checked and rebuilt before torch sees them, then loaded and run in a process without rights."""

from corral.audit.programs.files import load_file
from corral.audit.programs.sealed import Sealed

__all__ = ["Sealed", "load_file"]
