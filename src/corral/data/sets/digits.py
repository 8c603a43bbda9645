"""Handwritten digits, 8×8, that come with scikit-learn: real images without a download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.registry import register_data
from corral.data.split import split_validation

TEST_COUNT = 500
TEST_SEED = 0


@register_data(
    "digits", description="1,797 handwritten digits that come with scikit-learn", shape=(1, 8, 8), classes=10
)
def load_digits() -> DataSet:
    """The 1,797 digits of scikit-learn, (N, 1, 8, 8) uint8: 1,297 to train and a fixed stratified test part of 500.

    The source's levels v in 0..16 become round(v × 255 / 16).
    """
    table = _table()
    levels = np.rint(table[:, :-1].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    images = Images(torch.from_numpy(levels).unsqueeze(1), torch.from_numpy(table[:, -1].astype(np.int64)))
    train, test = split_validation(images, TEST_COUNT, seed=TEST_SEED)
    note = f"scikit-learn's digits, a fixed stratified test part of {TEST_COUNT}"
    return DataSet("digits", tuple("0123456789"), train, test, note=note)


def _table() -> np.ndarray:
    """(1797, 65) levels and labels, from scikit-learn's file: importing its loader takes a second, with scipy.stats."""
    found = find_spec("sklearn")
    folder = Path(next(iter(found.submodule_search_locations or ()))) if found is not None else Path()
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits as embedded_digits

    return np.column_stack(embedded_digits(return_X_y=True))
