"""Map-style data sets, item by item, whatever an item is."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from corral.data import load_measured, own
from corral.data.loading.items import class_names, read_items
from corral.errors import UsageError

Refusal = Callable[..., str]
# (N, H, W, C) levels and labels.
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 1, 0]


class Items:
    """A map-style data set of whatever is given."""

    def __init__(self, items: Sequence[Any], **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Column:
    """What Hugging Face's features say of a column."""

    def __init__(self, **stated: Any) -> None:
        vars(self).update(stated)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "a picture": Image.fromarray,
    "a uint8 tensor": tensor,
    "a float tensor": lambda x: tensor(x) / 255,
    "a double tensor": lambda x: tensor(x).double() / 255,
    "an array of rows and columns": lambda x: x,
    "an array of floats": lambda x: (x / 255).astype(np.float32),
    "an array of channels first": lambda x: x.transpose(2, 0, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_item_is_the_same_image(kind: str) -> None:
    items = Items([(KINDS[kind](x), y) for x, y in zip(LEVELS, LABELS, strict=True)])
    pixels, labels, names = read_items("own", items)
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.permute(0, 2, 3, 1), LEVELS)
    assert (labels.tolist(), names) == (LABELS, None)


@pytest.mark.parametrize("make", [Image.fromarray, torch.from_numpy, lambda x: x, lambda x: torch.from_numpy(x)[None]])
def test_gray_images_have_one_channel(make: Callable[[np.ndarray], Any]) -> None:
    pixels, _, _ = read_items("own", Items([(make(x[..., 0]), 0) for x in LEVELS]))
    assert np.array_equal(pixels, LEVELS[:, None, :, :, 0])


def test_where_axes_could_be_either_a_tensor_has_its_channels_first_and_an_array_last() -> None:
    cube = LEVELS[:, :3, :4]  # (3, 4, 3)
    of_tensors = read_items("own", Items([(torch.from_numpy(x), 0) for x in cube]))[0]
    of_arrays = read_items("own", Items([(x, 0) for x in cube]))[0]
    stated = read_items("own", Items([(x, 0) for x in cube]), layout="NCHW")[0]
    assert np.array_equal(of_tensors, cube)
    assert np.array_equal(of_arrays.permute(0, 2, 3, 1), cube)
    assert np.array_equal(stated, cube)


def test_floats_that_are_no_levels_stay_as_they_are() -> None:
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_items("own", TensorDataset(x, torch.arange(4)))[0], x)


@pytest.mark.parametrize("make", [int, np.int64, torch.tensor, lambda y: torch.tensor([y]), lambda y: np.array([[y]])])
def test_a_label_is_a_whole_number_however_it_is_wrapped(make: Callable[[int], Any]) -> None:
    _, labels, _ = read_items("own", Items([(x, make(y)) for x, y in zip(LEVELS, LABELS, strict=True)]))
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS


def test_one_picture_in_colour_makes_all_colour() -> None:
    pictures = [Image.fromarray(x[..., 0]) for x in LEVELS]
    pictures[3] = Image.fromarray(LEVELS[3])
    pixels, _, _ = read_items("own", Items([(picture, 0) for picture in pictures]))
    expected = np.stack([x if row == 3 else np.dstack([x[..., 0]] * 3) for row, x in enumerate(LEVELS)])
    assert np.array_equal(pixels.permute(0, 2, 3, 1), expected)


def test_pictures_are_read_by_the_rules_of_files(refusal: Refusal) -> None:
    with_alpha = Image.fromarray(np.dstack([LEVELS[0], LEVELS[1, ..., 0]]))
    assert np.array_equal(read_items("own", Items([(with_alpha, 0)]))[0][0].permute(1, 2, 0), LEVELS[0])
    deep = Image.fromarray(LEVELS[0, ..., 0].astype(np.uint16))
    words = "own: item 0: found pixels of mode I;16, expected 8 bits a channel; convert it"
    assert refusal(lambda: read_items("own", Items([(deep, 0)]))) == words


def test_pictures_of_different_sizes_are_resized_by_choice(refusal: Refusal) -> None:
    items = Items([(Image.fromarray(x[: 3 + row]), y) for row, (x, y) in enumerate(zip(LEVELS, LABELS, strict=True))])
    words = refusal(lambda: load_measured(items))
    assert (
        "own/Items: item 1: found (C, H, W) = (3, 4, 7), item 0 has (3, 3, 7): corral.data.own(data, size=N)" in words
    )
    part = own(items, size=4)
    assert part.note == "Items; shorter side resized to 4, middle 4×4 cut out"
    found = part.images.pixels
    short = Image.fromarray(LEVELS[0, :3]).resize((9, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(found[0].permute(1, 2, 0), np.asarray(short)[:, 2:6])
    words = refusal(lambda: own(Items([(LEVELS[0], 0)]), size=4), UsageError)
    assert "own/Items: item 0: size, resize and upright are for Pillow's pictures, found ndarray" in words


@pytest.mark.parametrize("image", ["image", "img", "pixel_values", "x"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "y"])
def test_columns_have_the_names_that_the_field_gives_them(image: str, label: str) -> None:
    rows = [{"id": 7, image: x, label: y} for x, y in zip(LEVELS, LABELS, strict=True)]
    features = {label: Column(names=["cat", "dog"])}
    for attributes in ({}, {"column_names": ["id", image, label], "features": features}):
        pixels, labels, names = read_items("own", Items(rows, **attributes))
        assert np.array_equal(pixels.permute(0, 2, 3, 1), LEVELS)
        assert labels.tolist() == LABELS
        assert names == (("cat", "dog") if attributes else None)


def test_other_columns_are_named_by_the_user(refusal: Refusal) -> None:
    rows = Items([{"photo": x, "species": 0, "label": 9} for x in LEVELS], column_names=["photo", "species", "label"])
    assert own(rows, columns=("photo", "species")).images.labels.tolist() == [0] * 6
    words = refusal(lambda: own(rows), UsageError)
    assert "which column holds the images is not plain among photo, species, label: name both" in words
    words = refusal(lambda: own(rows, columns=("foto", "species")), UsageError)
    assert "own/Items: no column 'foto'; its columns are photo, species, label" in words
    both = Items([{"x": x, "label": 0, "labels": 1} for x in LEVELS])
    assert "which column holds the labels is not plain among x, label, labels" in refusal(lambda: own(both), UsageError)


def test_nested_lists_have_the_type_that_their_column_states() -> None:
    rows = [{"x": x.tolist(), "y": 0} for x in LEVELS]
    features = {"x": Column(feature=Column(feature=Column(dtype="uint8")))}
    pixels = read_items("own", Items(rows, column_names=["x", "y"], features=features))[0]
    assert np.array_equal(pixels.permute(0, 2, 3, 1), LEVELS)


def test_the_names_of_classes_are_found() -> None:
    data = Items([], classes=["cat", "dog"])
    assert class_names(data) == class_names(Subset(data, [0])) == ("cat", "dog")
    assert class_names(Items([], classes=[("tench", "Tinca tinca"), ("goldfish",)])) == (
        "tench, Tinca tinca",
        "goldfish",
    )
    assert (
        class_names(Items([], classes=10)) is class_names(Items([], classes=[1, 2])) is class_names(Items([])) is None
    )


class Fails(Items):
    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk\nis gone")


class Random(Items):
    def __getitem__(self, index: int) -> Any:
        return np.random.default_rng().random((4, 4)), 0


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (Items([]), "own: has no images"),
        (Items([7]), "own: item 0 is int, expected (image, label), or a dictionary with both"),
        (Items([(1, 2, 3)]), "own: item 0 is 3 things, expected (image, label)"),
        (Items([("x", 0)]), "own: item 0: found str, expected a tensor or a NumPy array"),
        (Items([(np.zeros(4), 0)]), "own: item 0 has the shape (4,), expected (H, W), (C, H, W) or (H, W, C)"),
        (Items([(np.zeros((5, 6, 7)), 0)]), "own: item 0 of shape (5, 6, 7) has no axis of 1 to 4 channels"),
        (
            Items([(np.full((4, 4), 300), 0)]),
            "own: item 0 is int64, expected uint8 or floats in [0, 1]: convert it (fou",
        ),
        (Items([(LEVELS[0] / 2, 0)]), "pixels must be in [0, 1]; found max 124"),
        (Items([(LEVELS[0], 0.5)]), "own: label of item 0 is float (float64), expected one whole number"),
        (
            Items([(LEVELS[0], "cat")]),
            "own: label of item 0 is str (<U3), expected one whole number; number the classes",
        ),
        (Items([(LEVELS[0], [0, 1])]), "own: label of item 0 is an array of shape (2,), expected one whole number"),
        (Items([(LEVELS[0], None)]), "own: label of item 0 is NoneType (object), expected one whole number"),
        (Items([(LEVELS[0], 0), (LEVELS[0] / 255, 0)]), "own: item 1: found float64, item 0 is uint8: make all images"),
        (
            Items([(LEVELS[0], 0), (LEVELS[0, 1:], 0)]),
            "item 1: found (C, H, W) = (3, 4, 7), item 0 has (3, 5, 7): make",
        ),
        (Items([(LEVELS[0], 0), (Image.new("L", (7, 5)), 0)]), "own: item 1: found Image, item 0 is of another kind"),
        (Fails([0]), "own: item 0 failed (OSError: the disk)"),
        (
            Random([0]),
            "own: item 0 is another image when it is read again: give the data set without random transforms",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(items: Items, words: str, refusal: Refusal) -> None:
    assert words in refusal(lambda: own(items, name="own")).replace("own/own", "own")
