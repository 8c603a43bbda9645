"""MNIST from its idx files."""

from pathlib import Path

from corral.data.images import DataSet
from corral.data.loading.idx import idx_release, load_idx
from corral.data.registry import register_data

MNIST = idx_release(
    "mnist",
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
COUNTS = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "t10k": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}


@register_data("mnist", description="70,000 handwritten digits", shape=(1, 28, 28), classes=10)
def load_mnist(root: Path | None = None, download: bool = True) -> DataSet:
    """MNIST: 60,000 + 10,000 handwritten digits, (N, 1, 28, 28) uint8; see `load_idx`."""
    return load_idx(MNIST, tuple("0123456789"), COUNTS, root, download)
