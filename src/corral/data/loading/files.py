"""A tree's picture files as a source of images: names of little memory, and what is known of all files."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.data.crops import Crop
from corral.data.loading.fit import Fit
from corral.data.loading.known import known
from corral.data.loading.pictures import Reading, common_shape, read_picture
from corral.data.loading.workers import Workers
from corral.errors import CorralError
from corral.progress import Progress

# Files that a process checks at once. A decoder of ours that gives other pixels counts on the second.
CHECKED, DECODER = 64, 1


class PictureFiles:
    """Files of one picture each, in a fixed order, each decoded when it is read; `Source` says what the parts are.

    Args:
        top: the folder that they are in.
        files: their paths, inside of it.
        shape: (C, H, W) that every one is made.
        fit: how.
    """

    dtype, pictures = torch.uint8, True

    def __init__(self, top: Path, files: Sequence[Path], shape: tuple[int, int, int], fit: Fit) -> None:
        self.name, self.top, self.shape, self.fit = str(top), os.path.join(top, ""), shape, fit
        # One piece of memory: a process that is forked would copy a list of a million names, for it counts who holds
        # each of them.
        skipped = len(os.fsencode(self.top))
        names = [os.fsencode(file)[skipped:] for file in files]
        self.names = np.frombuffer(b"".join(names), np.uint8)
        self.ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self.stats: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def inside(self, index: int) -> bytes:
        """A file's path inside of the folder."""
        begin = self.ends[index - 1] if index else 0
        return self.names[begin : self.ends[index]].tobytes()

    def file(self, index: int) -> Path:
        """A file's path."""
        return Path(self.top + os.fsdecode(self.inside(index)))

    def read(self, index: int, crop: Crop | None = None) -> NDArray[Any]:
        """As `Source`.

        Raises:
            CorralError: names the file that cannot be read.
        """
        return read_picture(self.file(index), self.shape, self.fit, crop)

    def identity(self, rows: Tensor) -> str:
        """Of names, sizes and times of change, of how they are made one size, and of Pillow's version.

        A file that is changed without either its size or its time changing is taken for what it was.
        """
        digest = hashlib.sha256(f"{DECODER} {PIL.__version__} {self.shape} {self.fit}".encode())
        digest.update(b"\0".join(map(self.inside, rows.tolist())))
        digest.update(self._stats()[rows.numpy()].tobytes())
        return digest.hexdigest()

    def files(self, rows: Tensor) -> str:
        """As `Source`."""
        digest = hashlib.sha256(b"\0".join(map(self.inside, rows.tolist())))
        digest.update(self._stats()[rows.numpy(), 0].tobytes())
        return digest.hexdigest()[:16]

    def _stats(self) -> NDArray[Any]:
        """(N, 2) sizes and times of change of all files, asked for once."""
        if self.stats is None:
            self.stats = np.array([self._stated(row) for row in range(len(self))], np.int64)
        return self.stats

    def _stated(self, row: int) -> tuple[int, int]:
        """A file's size, and its time of change in nanoseconds."""
        try:
            found = os.stat(os.fsencode(self.top) + self.inside(row))
        except OSError as error:
            raise CorralError(f"{self.file(row)}: cannot be read ({error.strerror}); restore it") from error
        return found.st_size, found.st_mtime_ns


def surveyed(top: Path, files: Sequence[Path], reading: Reading) -> PictureFiles:
    """Files that are to be streamed: what `common_shape` says of all, and `reading.left_out` where damaged ones are.

    Their headers are read once, and where damaged files are left out all of each; then it is known from the cache.

    Raises:
        CorralError: as `common_shape`.
    """
    # Before the shape is known it decides nothing: the key has the names, the sizes and the times.
    source = PictureFiles(top, files, (0, 0, 0), reading.fit)
    key = source.identity(torch.arange(len(files)))

    def find() -> dict[str, Any]:
        source.shape = common_shape(list(files), reading)
        if reading.skipping:
            _leave_out(source, files, reading)
        left = [index for index, file in enumerate(files) if file in reading.left_out]
        return {"shape": source.shape, "left_out": left, "sideways": reading.sideways}

    found = known("survey", f"{key}{'-skipping' if reading.skipping else ''}", find, valid=_is_survey)
    reading.left_out = {files[index]: None for index in found["left_out"]}
    reading.sideways = found["sideways"]
    channels, height, width = found["shape"]
    source.shape = channels, height, width
    return source


def _leave_out(source: PictureFiles, files: Sequence[Path], reading: Reading) -> None:
    """Find the files that cannot be decoded."""
    left = [index for index, file in enumerate(files) if file not in reading.left_out]

    def requests() -> Iterator[list[int]]:
        for begin in range(0, len(left), CHECKED):
            yield left[begin : begin + CHECKED]

    answers: Iterable[list[int]] = Workers(partial(_damaged, source), what=source.name, result_bytes=0).map(requests())
    with Progress(f"{source.name}: checked", len(left), "files") as bar:
        for found in answers:
            reading.left_out |= {files[index]: None for index in found}
            bar.advance(CHECKED)


def _damaged(source: PictureFiles, indices: list[int]) -> list[int]:
    """In a process: those of some files that cannot be decoded."""
    found = []
    for index in indices:
        try:
            source.read(index)
        except CorralError:
            found.append(index)
    return found


def _is_survey(found: Any) -> bool:
    """Whether what was read is such a survey."""
    if not isinstance(found, dict) or found.keys() != {"shape", "left_out", "sideways"}:
        return False
    numbers = [*found["shape"], *found["left_out"], found["sideways"]]
    return len(found["shape"]) == len("CHW") and all(isinstance(number, int) for number in numbers)
