"""Programs from files: checked and rebuilt before torch sees them, then loaded and run in a process without rights."""

from corral.audit.programs.compiled import CompiledProgram
from corral.audit.programs.files import load_file

__all__ = ["CompiledProgram", "load_file"]
