"""TensorBoard's event files, whose writer thread raises what it meets in whatever call comes next."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from corral.errors import CorralError


class Board:
    """Scalars of each epoch as TensorBoard events.

    Args:
        folder: where the event files go.
        first_epoch: the first epoch to be written; what an interrupted run wrote from there on is purged.

    Raises:
        CorralError: the folder cannot be written, here or in any call.
    """

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        with self._one_line():
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._one_line():
                self.writer.close()
        except CorralError:
            if error is None:  # else the first failure is the one to tell
                raise

    def write(self, numbers: Mapping[str, Any], epoch: int) -> None:
        """Write the floats among an epoch's numbers, through to the disk."""
        with self._one_line():
            for name, value in numbers.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise CorralError(
                f"{self.folder}: cannot be written ({reason}); free some space and continue with --resume"
            ) from error
