"""Fashion-MNIST from its idx files."""

from pathlib import Path

from corral.data.images import DataSet
from corral.data.loading.idx import idx_release, load_idx
from corral.data.registry import register_data

FASHION_MNIST = idx_release(
    "fashion-mnist",
    "FashionMNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
COUNTS = {"train": (6000,) * 10, "t10k": (1000,) * 10}


@register_data("fashion-mnist", description="70,000 pieces of clothing", shape=(1, 28, 28), classes=10)
def load_fashion_mnist(root: Path | None = None, download: bool = True) -> DataSet:
    """Fashion-MNIST: 60,000 + 10,000 pieces of clothing, (N, 1, 28, 28) uint8; see `load_idx`."""
    return load_idx(FASHION_MNIST, CLASSES, COUNTS, root, download)
