"""Stratified parts of a set of images, fixed by a seed and the same on every device."""

import torch
from torch import Tensor

from corral.data.images import Images
from corral.errors import CorralError, UsageError

TEST_SEED = 0
# What a test part is called, the first choice first.
TEST_PARTS = ("test", "val", "valid", "validation")


def split_validation(images: Images, count: int, *, seed: int) -> tuple[Images, Images]:
    """Split off a stratified validation part.

    Args:
        images: labelled images.
        count: size of the validation part, at least 1; every class must keep a training image.
        seed: fixes which rows are chosen, whatever the device.

    Returns:
        (train, validation): disjoint, together all rows, each in the order of `images`.

    Raises:
        UsageError: an impossible count, or images without labels.
    """
    labels = _host_labels(images)
    if not 1 <= count < len(images):
        raise UsageError(f"validation of {count} images is impossible: 1 to {len(images) - 1} can be split off")
    counts = torch.bincount(labels)
    emptied = ((counts > 0) & (counts == _quotas(counts, count))).nonzero()
    if len(emptied):
        raise UsageError(
            f"validation of {count} of {len(images)} images would leave class {int(emptied[0])} "
            "without a training image: ask for fewer"
        )
    chosen = _stratified_indices(labels, count, seed)
    others = torch.ones(len(images), dtype=torch.bool)
    others[chosen] = False
    return images.take(others), images.take(chosen)


def stratified_subset(images: Images, count: int, *, seed: int) -> Images:
    """A stratified subset: the classes keep their shares.

    Args:
        images: labelled images.
        count: size of the subset, 1 to N; below the number of classes some classes are absent.
        seed: fixes which rows are chosen, whatever the device.

    Returns:
        `count` images in the order of `images`.

    Raises:
        UsageError: an impossible count, or images without labels.
    """
    labels = _host_labels(images)
    if not 1 <= count <= len(images):
        raise UsageError(f"a subset of {count} images is impossible: ask for 1 to {len(images)}")
    return images.take(_stratified_indices(labels, count, seed))


def random_subset(images: Images, count: int, *, seed: int) -> Images:
    """A subset without regard to labels.

    Args:
        images: any images.
        count: size of the subset, 1 to N.
        seed: fixes which rows are chosen, whatever the device.

    Returns:
        `count` images in the order of `images`.

    Raises:
        UsageError: an impossible count.
    """
    if not 1 <= count <= len(images):
        raise UsageError(f"a subset of {count} images is impossible: ask for 1 to {len(images)}")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images.take(chosen.sort().values)


def split_off_test(images: Images, where: str) -> tuple[Images, Images, str]:
    """(train, test, note): a fixed stratified fifth of labelled images as the test part, for sources that have none.

    Raises:
        CorralError: too few images for a test part; the message begins with the source, `where`.
    """
    try:
        train, test = split_validation(images, round(len(images) / 5), seed=TEST_SEED)
    except UsageError as error:
        raise CorralError(
            f"{where}: no test part, and a fifth of the {len(images)} images cannot be split off ({error}); add one"
        ) from error
    return train, test, f"no test part in the source: a fixed stratified fifth ({len(test):,} images) is split off"


def _host_labels(images: Images) -> Tensor:
    if images.labels is None:
        raise UsageError("a stratified part needs labels, and these images have none")
    return images.labels.cpu()


def _stratified_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """(count,) sorted indices, `_quotas` of each class, drawn on the CPU so that every device gets the same."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    quotas = _quotas(torch.bincount(labels), count)
    chosen = [order[shuffled == label][:quota] for label, quota in enumerate(quotas.tolist())]
    return torch.cat(chosen).sort().values


def _quotas(counts: Tensor, count: int) -> Tensor:
    """Shares of `count` by class in proportion to `counts`, largest remainders rounded up; they sum to `count`.

    In whole numbers, so the rounding is exact; equal remainders go to the lower class.
    """
    total = int(counts.sum())
    quotas = counts * count // total
    remainders = counts * count % total
    quotas[remainders.argsort(descending=True, stable=True)[: count - int(quotas.sum())]] += 1
    return quotas
