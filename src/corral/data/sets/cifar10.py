"""CIFAR-10 from its binary layout."""

from pathlib import Path

from corral.data.images import DataSet
from corral.data.loading.cifar import read_cifar
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import source_note
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

    Files of other sizes are read too where they hold whole, exactly class-balanced rows; the note then says so.

    For the arguments and errors see `corral.data.load`.
    """
    folder = provide(CIFAR10, root, download)
    train = read_cifar([folder / name for name in TRAIN], official=10_000, label_bytes=1, num_classes=10)
    test = read_cifar([folder / "test_batch.bin"], official=10_000, label_bytes=1, num_classes=10)
    note = source_note(len(train), 50_000, len(test), 10_000)
    return DataSet("cifar10", CLASSES, train, test, note=note)
