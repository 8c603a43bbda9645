"""TensorBoard's event files, written in the caller's thread, so that a full disk is an error here and not a trace."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from corral.errors import CorralError


class Board:
    """Scalars of each epoch as TensorBoard events.

    Args:
        folder: where the event file goes; each call of a run begins another.
        first_epoch: the first epoch to be written; TensorBoard drops what an interrupted run wrote from there on.

    Raises:
        CorralError: the folder cannot be written, here or in `write`.
    """

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._event, self._summary = Event, Summary
        self.folder = folder
        with self._one_line():
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            self._records = RecordWriter(path.open("wb"))
            self._add(file_version="brain.Event:2")
            self._add(step=first_epoch, session_log=SessionLog(status=SessionLog.START))
            self._records.flush()

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._one_line():
                self._records.close()
        except CorralError:
            if error is None:  # else the first failure is the one to tell
                raise

    def write(self, numbers: Mapping[str, Any], epoch: int) -> None:
        """Write the floats among an epoch's numbers."""
        scalars = [(name, value) for name, value in numbers.items() if isinstance(value, float)]
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars]
        with self._one_line():
            self._add(step=epoch, summary=self._summary(value=values))
            self._records.flush()

    def _add(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise CorralError(
                f"{self.folder}: cannot be written ({reason}); free some space and continue with --resume"
            ) from error
