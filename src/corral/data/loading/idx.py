"""The idx files of MNIST and of the sets in its form, raw or gzipped."""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import REMEDY, as_labels, foreign_label, source_note
from corral.errors import CorralError
from corral.reading import check_file

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
OFFICIAL = {"train": 60_000, "t10k": 10_000}
SIDE = 28


def idx_release(name: str, folder: str, base: str, hashes: Sequence[str]) -> Release:
    """Four files below the address `base`, gzipped, with their MD5s in the order of `FILES`."""
    sources = tuple(Source(f"{base}/{file}.gz", md5) for file, md5 in zip(FILES, hashes, strict=True))
    return Release(name, (f"{folder}/raw", folder, "."), FILES, sources)


def load_idx(
    release: Release,
    classes: tuple[str, ...],
    class_counts: Mapping[str, tuple[int, ...]],
    root: Path | None,
    download: bool,
) -> DataSet:
    """A data set of 60,000 + 10,000 images of 28×28 in four idx files.

    Args:
        release: its files.
        classes: their names.
        class_counts: of the complete files, by "train" and "t10k": the sets in this form have the same file names and
            sizes, and only the counts tell one from the other.
        root: see `corral.data.load`.
        download: see `corral.data.load`.

    Raises:
        CorralError: absent, truncated or foreign files; the message names file, found and expected.
    """
    folder = provide(release, root, download)
    parts = {}
    for prefix, official in OFFICIAL.items():
        pixels = _read_idx(release.path(folder, f"{prefix}-images-idx3-ubyte"), 3, official * SIDE * SIDE)
        path = release.path(folder, f"{prefix}-labels-idx1-ubyte")
        labels = _read_idx(path, 1, official)
        if pixels.shape != (len(labels), SIDE, SIDE) or not len(labels):
            raise CorralError(
                f"{path}: found {len(labels):,} labels beside images of shape {pixels.shape}, expected one label for "
                f"each {SIDE}×{SIDE} image; {REMEDY}"
            )
        foreign_label(path, labels, len(classes))
        found = tuple(np.bincount(labels, minlength=len(classes)).tolist())
        if len(labels) == official and found != class_counts[prefix]:
            raise CorralError(
                f"{path}: not {release.name}: found {found} images by class, expected {class_counts[prefix]}; put the "
                f"official files into {release.folders[0]}"
            )
        parts[prefix] = Images(torch.from_numpy(pixels).unsqueeze(1), as_labels(labels))
    note = source_note(len(parts["train"]), OFFICIAL["train"], len(parts["t10k"]), OFFICIAL["t10k"], kind="")
    return DataSet(release.name, classes, parts["train"], parts["t10k"], note=note)


def _read_idx(path: Path, dimensions: int, most: int) -> np.ndarray:
    """The uint8 array of an idx file: magic number 8 (uint8) and rank, then the lengths.

    No more is read, or unpacked, than the lengths say, at most `most` bytes.
    """
    packed = path.suffix == ".gz"
    size = check_file(path, remedy=REMEDY)
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            lengths = _lengths(path, stream.read(4 + 4 * dimensions), dimensions)
            expected = math.prod(lengths)
            if expected > most:
                raise CorralError(
                    f"{path}: a foreign file: found shape {lengths}, expected at most {most:,} values; {REMEDY}"
                )
            content = stream.read(expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorralError(f"{path}: truncated or not a gzip file ({error}); {REMEDY}") from error
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    if len(content) != expected:
        header = 4 + 4 * dimensions
        # How much more is packed is not looked for.
        found = f"{len(content) + header if packed else size:,} bytes"
        found += " or more" if packed and len(content) > expected else ""
        raise CorralError(f"{path}: truncated or foreign: found {found}, expected {expected + header:,}; {REMEDY}")
    return np.frombuffer(content, np.uint8).reshape(lengths).copy()


def _lengths(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """The lengths that a file's first bytes state."""
    magic = bytes((0, 0, 8, dimensions))
    if len(header) < 4 + 4 * dimensions or header[:4] != magic:
        raise CorralError(
            f"{path}: not an idx file: found first bytes {header[:4].hex(' ') or 'none'}, "
            f"expected {magic.hex(' ')}; {REMEDY}"
        )
    return struct.unpack(f">{dimensions}I", header[4:])
