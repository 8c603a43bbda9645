from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.data import Images, random_subset, split_validation, stratified_subset
from corral.errors import UsageError

label_lists = st.lists(st.integers(0, 5), min_size=2, max_size=60)


def images_of(labels: list[int], device: str | torch.device = "cpu") -> Images:
    """Images whose pixel is their row, so that a part tells which rows it took."""
    rows = torch.arange(len(labels), dtype=torch.float32).view(-1, 1, 1, 1) / 1024
    return Images(rows, torch.tensor(labels)).to(device)


def rows_of(images: Images) -> list[int]:
    return (images.pixels.flatten() * 1024).int().tolist()


def largest_remainder(labels: list[int], count: int) -> dict[int, int]:
    """The rounding in exact fractions, one class at a time."""
    shares = {label: Fraction(count * labels.count(label), len(labels)) for label in range(max(labels) + 1)}
    quotas = {label: int(share) for label, share in shares.items()}
    for label in sorted(shares, key=lambda label: (-(shares[label] - quotas[label]), label))[
        : count - sum(quotas.values())
    ]:
        quotas[label] += 1
    return quotas


@given(label_lists, st.data(), st.integers(0, 2**40))
def test_subset_takes_the_largest_remainder_share_of_each_class(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(1, len(labels)))
    subset = stratified_subset(images_of(labels), count, seed=seed)
    rows = rows_of(subset)
    assert len(rows) == count
    assert rows == sorted(set(rows))
    assert subset.labels is not None
    assert subset.labels.tolist() == [labels[row] for row in rows]
    quotas = largest_remainder(labels, count)
    assert {label: subset.labels.tolist().count(label) for label in quotas} == quotas
    assert rows == rows_of(stratified_subset(images_of(labels), count, seed=seed))


@given(label_lists, st.data())
def test_split_is_a_partition_that_leaves_every_class_in_training(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    quotas = largest_remainder(labels, count)
    emptied = [label for label in set(labels) if quotas[label] == labels.count(label)]
    if emptied:
        with pytest.raises(UsageError, match=f"class {min(emptied)} without a training image"):
            split_validation(images_of(labels), count, seed=0)
        return
    train, validation = split_validation(images_of(labels), count, seed=0)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(len(labels)))
    assert rows_of(train) == sorted(rows_of(train))
    assert len(validation) == count
    assert rows_of(validation) == rows_of(stratified_subset(images_of(labels), count, seed=0))


def test_the_seed_decides_the_rows_and_the_device_does_not(device: torch.device) -> None:
    labels = [row % 3 for row in range(300)]
    first = rows_of(stratified_subset(images_of(labels), 30, seed=1))
    assert first == rows_of(stratified_subset(images_of(labels, device), 30, seed=1))
    assert first != rows_of(stratified_subset(images_of(labels), 30, seed=2))
    assert split_validation(images_of(labels, device), 30, seed=1)[1].pixels.device.type == device.type


def test_rows_are_drawn_evenly() -> None:
    """Over 2,000 seeds each of 10 rows of a class is drawn 400 times, within five standard deviations (17.9)."""
    images = images_of([0] * 10 + [1] * 10)
    drawn = torch.zeros(20)
    for seed in range(2000):
        drawn[rows_of(stratified_subset(images, 4, seed=seed))] += 1
    assert drawn.sum() == 8000
    assert (drawn - 400).abs().max() < 5 * 17.9


@pytest.mark.parametrize("count", [-1, 0, 5])
def test_impossible_subsets_are_refused(count: int, refusal: Callable[..., str]) -> None:
    message = refusal(lambda: stratified_subset(images_of([0, 1, 0, 1]), count, seed=0), UsageError)
    assert f"subset of {count} images is impossible: ask for 1 to 4" in message


@pytest.mark.parametrize("count", [-1, 0, 4])
def test_impossible_validations_are_refused(count: int, refusal: Callable[..., str]) -> None:
    message = refusal(lambda: split_validation(images_of([0, 1, 0, 1]), count, seed=0), UsageError)
    assert f"validation of {count} images is impossible: 1 to 3" in message


def test_unlabeled_images_cannot_be_stratified(refusal: Callable[..., str]) -> None:
    images = Images(torch.zeros(4, 1, 1, 1))
    assert "needs labels" in refusal(lambda: stratified_subset(images, 2, seed=0), UsageError)
    assert "needs labels" in refusal(lambda: split_validation(images, 2, seed=0), UsageError)


def test_a_random_subset_needs_no_labels_and_is_the_seed_s() -> None:
    images = Images(torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1))
    chosen = random_subset(images, 7, seed=3).pixels.flatten().tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 7
    assert random_subset(images, 7, seed=3).pixels.flatten().tolist() == chosen
    assert random_subset(images, 7, seed=4).pixels.flatten().tolist() != chosen
    for count in (0, 41):
        with pytest.raises(UsageError, match="ask for 1 to 40"):
            random_subset(images, count, seed=0)
