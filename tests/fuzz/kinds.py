"""Every kind of file that corral reads and that a user or another machine may have written."""

import gzip
import io
import json
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

import corral
from corral.analysis.analyze import analyze
from corral.analysis.document import read_analysis
from corral.checkpoints import CHECKSUM_KEY, METADATA_KEY, _checksum, read_tensors
from corral.data import load
from corral.evaluation.certificate import read_certificate
from corral.papers.result import read_result
from corral.papers.store import read_store
from corral.targets.target import load_target
from corral.training import load_recipe, train

# A committed model of ten classes of 8x8 digits.
RESULTS = Path(__file__).resolve().parents[2] / "results"
CHECKPOINT = RESULTS.parent / "src" / "corral" / "zoo" / "digits-corral"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: in the table.
        suffix: of the file.
        whole: whole files of it; may write into the folder.
        read: what corral does with one.
        where: its place in a folder.
        prepare: makes what must lie beside it.
    """

    name: str
    suffix: str
    whole: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    where: str = "file"
    prepare: Callable[[Path], object] = lambda folder: None

    def place(self, folder: Path) -> Path:
        """The file's path in a folder."""
        path = folder / f"{self.where}{self.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


KINDS: dict[str, Kind] = {}


def kind(name: str, suffix: str, read: Callable[[Path], object], **more: Any) -> Callable[[Any], Any]:
    """Register a function that makes whole files."""

    def decorate(whole: Callable[[Path], list[bytes]]) -> Callable[[Path], list[bytes]]:
        KINDS[name] = Kind(name, suffix, whole, read, **more)
        return whole

    return decorate


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@kind("npz", ".npz", lambda path: load(f"npz:{path}"))
def npz(folder: Path) -> list[bytes]:
    """Arrays of images and labels, stored and compressed."""
    images, labels = _rng().integers(0, 256, (30, 6, 6, 3), dtype=np.uint8), np.arange(30) % 3
    found = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(
            stream, train_images=images, train_labels=labels, test_images=images[:6], test_labels=labels[:6],
            classes=np.array(["a", "b", "c"]), layout="NHWC",
        )  # fmt: skip
        found.append(stream.getvalue())
    return found


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _mnist(folder: Path, without: str = "") -> None:
    for prefix, count in (("train", 30), ("t10k", 20)):
        for name, array in (
            ("images-idx3", _rng().integers(0, 256, (count, 28, 28))),
            ("labels-idx1", np.arange(count) % 10),
        ):
            path = folder / f"MNIST/raw/{prefix}-{name}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() and f"{prefix}-{name}-ubyte" != without:
                path.write_bytes(_idx(array))


@kind(
    "idx images", "", lambda path: load("mnist", root=path.parents[2], download=False),
    where="MNIST/raw/train-images-idx3-ubyte", prepare=_mnist,
)  # fmt: skip
def idx_images(folder: Path) -> list[bytes]:
    """MNIST's images."""
    return [_idx(_rng().integers(0, 256, (30, 28, 28)))]


@kind(
    "idx labels", "", lambda path: load("mnist", root=path.parents[2], download=False),
    where="MNIST/raw/train-labels-idx1-ubyte", prepare=_mnist,
)  # fmt: skip
def idx_labels(folder: Path) -> list[bytes]:
    """MNIST's labels."""
    return [_idx(np.arange(30) % 10)]


@kind(
    "idx.gz", ".gz", lambda path: load("mnist", root=path.parents[2], download=False),
    where="MNIST/raw/train-labels-idx1-ubyte", prepare=lambda folder: _mnist(folder, without="train-labels-idx1-ubyte"),
)  # fmt: skip
def idx_packed(folder: Path) -> list[bytes]:
    """MNIST's labels, gzipped."""
    content = _idx(np.arange(30) % 10)
    return [gzip.compress(content, mtime=0), gzip.compress(content, mtime=0, compresslevel=1)]


def _cifar_rows() -> bytes:
    rows = _rng().integers(0, 256, (40, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(40) % 10
    return rows.tobytes()


def _cifar(folder: Path) -> None:
    for name in [*(f"data_batch_{number}" for number in range(2, 6)), "test_batch"]:
        path = folder / f"cifar-10-batches-bin/{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_cifar_rows())


@kind(
    "cifar", ".bin", lambda path: load("cifar10", root=path.parents[1], download=False),
    where="cifar-10-batches-bin/data_batch_1", prepare=_cifar,
)  # fmt: skip
def cifar(folder: Path) -> list[bytes]:
    """A batch of CIFAR-10."""
    return [_cifar_rows()]


def _svhn_arrays(count: int) -> dict[str, np.ndarray]:
    images = _rng().integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    return {"X": images, "y": (np.arange(count, dtype=np.uint8) % 10 + 1).reshape(-1, 1)}


def _svhn(folder: Path) -> None:
    (folder / "svhn").mkdir(exist_ok=True)
    savemat(folder / "svhn/test_32x32.mat", _svhn_arrays(20))


@kind(
    "svhn", ".mat", lambda path: load("svhn", root=path.parents[1], download=False),
    where="svhn/train_32x32", prepare=_svhn,
)  # fmt: skip
def svhn(folder: Path) -> list[bytes]:
    """SVHN's .mat, with and without compression."""
    found = []
    for compressed in (False, True):
        stream = io.BytesIO()
        savemat(stream, _svhn_arrays(40), do_compression=compressed)
        found.append(stream.getvalue())
    return found


def _photos(folder: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            for number in range(4):
                path = folder / f"photos/{part}/{name}/{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_rng().integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def _picture(form: str) -> Callable[[Path], list[bytes]]:
    def whole(folder: Path) -> list[bytes]:
        found = []
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate") if form == "TIFF" else (None,):
            stream = io.BytesIO()
            picture = Image.fromarray(_rng().integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(stream, form, **({} if compression is None else {"compression": compression}))
            found.append(stream.getvalue())
        return found

    return whole


for form, suffix in (
    ("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp"), ("WEBP", ".webp"), ("GIF", ".gif"), ("TIFF", ".tif"),
    ("PPM", ".ppm"),
):  # fmt: skip
    kind(
        f"photo {suffix}", suffix, lambda path: load(f"folder:{path.parents[2]}"), where="photos/train/a/damaged",
        prepare=_photos,
    )(_picture(form))  # fmt: skip


@kind("recipe", ".toml", load_recipe)
def recipe(folder: Path) -> list[bytes]:
    """Resolved recipes of three methods."""
    return [load_recipe(name, data=data).to_toml().encode() for name, data in RECIPES]


RECIPES = (("corral", "digits"), ("at", "mnist"), ("clustr-qtrades", "cifar10"))


@kind("model", ".safetensors", lambda path: corral.load(path))
def model(folder: Path) -> list[bytes]:
    """A committed model."""
    return [(CHECKPOINT / "model.safetensors").read_bytes()]


def _run(folder: Path) -> Path:
    """A copy of a tiny evaluated, analysed and certified run."""
    if not (folder / "run").exists():
        shutil.copytree(Path(_made().name) / "run", folder / "run")
    return folder / "run"


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    """A folder with that run, which goes with the process."""
    folder = tempfile.TemporaryDirectory()
    run = Path(folder.name) / "run"
    train(
        "corral", data="digits", out=run, progress=False, device="cpu",
        **{"data.train": 120, "training.epochs": 1, "model.width": 4, "model.features": 8},
    )  # fmt: skip
    corral.evaluate(run, n=20, progress=False)
    corral.certify_run(run, n=10, progress=False)
    analyze(run, only=["silhouettes"], n=20, progress=False)
    return folder


def _accepted(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader that believes edited files, which it is left to the forms to judge."""

    def accepted(path: Path) -> object:
        with corral.accept_edited():
            return read(path)

    return accepted


def _report(path: Path) -> object:
    run = next(parent for parent in path.parents if parent.name == "run")
    return corral.report([run], out=run.parent / "page.html")


def _resume(path: Path) -> object:
    run = next(parent for parent in path.parents if parent.name == "run")
    (run / "model.safetensors").unlink(missing_ok=True)  # a finished run would not be continued
    return train(run, out=run, resume=True, progress=False)


for name, suffix, where, read in (
    ("record", ".json", "run/records/quick-n20", _accepted(_report)),
    ("record arrays", ".npz", "run/records/quick-n20", _accepted(_report)),
    ("certificate", ".json", "run/certificates/l2-n10", _accepted(read_certificate)),
    ("analysis", ".json", "run/analyses/silhouettes-n20", _accepted(read_analysis)),
    ("metrics", ".jsonl", "run/metrics", _accepted(_resume)),
    ("run's recipe", ".toml", "run/recipe", lambda path: load_recipe(path.parent)),
    ("state", ".safetensors", "run/checkpoints/last", _resume),
):

    def _whole(folder: Path, place: str = f"{where}{suffix}") -> list[bytes]:
        return [(_run(folder).parent / place).read_bytes()]

    kind(name, suffix, read, where=where, prepare=_run)(_whole)


def _sealed(path: Path, whole: Path, into: Path) -> Path:
    """Tensors of a checkpoint with a file's content for metadata, its checksum right, so that readers get past it."""
    tensors, _ = read_tensors(whole)
    text = path.read_bytes().decode(errors="replace")
    into.write_bytes(save(tensors, {METADATA_KEY: text, CHECKSUM_KEY: _checksum(tensors, text)}))
    return into


@kind(
    "model metadata", ".json",
    lambda path: corral.load(_sealed(path, CHECKPOINT / "model.safetensors", path.with_suffix(".safetensors"))),
)  # fmt: skip
def model_metadata(folder: Path) -> list[bytes]:
    """What a committed model's file says of it."""
    return [json.dumps(read_tensors(CHECKPOINT / "model.safetensors")[1]).encode()]


def _resume_sealed(path: Path) -> object:
    state = path.parent / "run/checkpoints/last.safetensors"
    return _resume(_sealed(path, Path(_made().name) / "run/checkpoints/last.safetensors", state))


@kind("state metadata", ".json", _resume_sealed, prepare=_run)
def state_metadata(folder: Path) -> list[bytes]:
    """What a training state says of the run."""
    return [json.dumps(read_tensors(_run(folder) / "checkpoints/last.safetensors")[1]).encode()]


@kind("table", ".json", _accepted(read_result))
def table(folder: Path) -> list[bytes]:
    """A committed table."""
    return [(RESULTS / "tables" / "ncp-table5-small" / "table.json").read_bytes()]


@kind("results", ".csv", _accepted(lambda path: read_store(path.parent)), where="runs")
def results(folder: Path) -> list[bytes]:
    """The first runs of the committed results."""
    return [b"".join((RESULTS / "runs.csv").read_bytes().splitlines(keepends=True)[:20])]


class Tiny(torch.nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.body(x)


@kind("torchscript", ".pt", lambda path: load_target(str(path)))
def torchscript(folder: Path) -> list[bytes]:
    """A scripted module."""
    path = folder / "made.pt"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.save(torch.jit.trace(Tiny().eval(), torch.zeros(2, 1, 8, 8)), str(path))
    return [path.read_bytes()]


@kind("torch.export", ".pt2", lambda path: load_target(str(path)))
def exported(folder: Path) -> list[bytes]:
    """An exported program."""
    path = folder / "made.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(
        torch.export.export(Tiny().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)), str(path)
    )
    return [path.read_bytes()]
