"""CIFAR-10 from its binary layout."""

from pathlib import Path

from corral.data.images import DataSet
from corral.data.loading.cifar import read_cifar
from corral.data.loading.fetch import Release, Source, provide
from corral.data.registry import register_data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10 = Release(
    name="cifar10",
    folders=("cifar-10-batches-bin",),
    files=(*TRAIN, "test_batch.bin"),
    sources=(Source("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    extras=("batches.meta.txt",),
    pickled="cifar-10-batches-py",
)


@register_data("cifar10", description="60,000 colour photographs of 10 classes", shape=(3, 32, 32), classes=10)
def load_cifar10(root: Path | None = None, download: bool = True) -> DataSet:
    """CIFAR-10: 50,000 + 10,000 colour photographs in 10 classes, (N, 3, 32, 32) uint8.

    See `read_cifar` for what is accepted, `corral.data.load` for the arguments.
    """
    folder = provide(CIFAR10, root, download)
    train = [CIFAR10.path(folder, name) for name in TRAIN]
    return read_cifar("cifar10", CLASSES, train, CIFAR10.path(folder, "test_batch.bin"), label_bytes=1)
