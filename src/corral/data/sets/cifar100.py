"""CIFAR-100 from its binary layout."""

from pathlib import Path

from corral.data.images import DataSet
from corral.data.loading.cifar import read_cifar
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import REMEDY
from corral.data.registry import register_data
from corral.errors import CorralError
from corral.reading import read_bytes

# The official file has 1 kB.
MOST_NAMES = 1 << 16

CIFAR100 = Release(
    name="cifar100",
    folders=("cifar-100-binary",),
    files=("train.bin", "test.bin", "fine_label_names.txt"),
    sources=(Source("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
    extras=("coarse_label_names.txt",),
    pickled="cifar-100-python",
)


@register_data("cifar100", description="60,000 colour photographs of 100 classes", shape=(3, 32, 32), classes=100)
def load_cifar100(root: Path | None = None, download: bool = True) -> DataSet:
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 colour photographs, (N, 3, 32, 32) uint8.

    See `read_cifar` for what is accepted, `corral.data.load` for the arguments.
    """
    folder = provide(CIFAR100, root, download)
    classes = _class_names(CIFAR100.path(folder, "fine_label_names.txt"), 100)
    train, test = (CIFAR100.path(folder, f"{part}.bin") for part in ("train", "test"))
    return read_cifar("cifar100", classes, [train], test, label_bytes=2)


def _class_names(path: Path, expected: int) -> tuple[str, ...]:
    try:
        names = tuple(read_bytes(path, remedy=REMEDY, most=MOST_NAMES).decode().split())
    except UnicodeDecodeError as error:
        raise CorralError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    if len(names) != expected:
        raise CorralError(f"{path}: found {len(names)} class names, expected {expected}; {REMEDY}")
    return names
