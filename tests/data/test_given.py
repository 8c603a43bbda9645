"""Data given as objects: whatever they are, the same images are the same data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from corral.data import DataSet, Images, OnePart, data_name, from_arrays, load, load_measured, own, resolved_name
from corral.data.split import split_off_test
from corral.errors import UsageError

Refusal = Callable[..., str]
X = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, 5, 6), dtype=np.uint8))
Y = torch.arange(30) % 3
WHOLE = from_arrays(X[:20], Y[:20], X[20:], Y[20:], name="whole")
DIGITS = from_arrays(X[:20], Y[:20], X[20:], Y[20:], name="digits")


class Pictures(Dataset[Any]):
    """Map-style, of pictures, with names of its classes."""

    classes = ("ant", "bee", "cat")

    def __init__(self, rows: slice) -> None:
        self.x, self.y = X[rows], Y[rows]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.x[index].permute(1, 2, 0).numpy()), int(self.y[index])


class Columns:
    """As Hugging Face's data sets: columns with features, of named classes."""

    column_names = ("image", "label")

    def __init__(self, rows: slice) -> None:
        self.items = Pictures(rows)
        self.features = {"image": None, "label": type("ClassLabel", (), {"names": ["ant", "bee", "cat"]})()}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.items[index]
        return {"image": image, "label": label}


TRAIN, TEST = slice(20), slice(20, 30)
ARRAYS = (X[TRAIN].numpy(), Y[TRAIN].numpy()), (X[TEST].numpy(), Y[TEST].numpy())
TWO_PARTS: dict[str, Any] = {
    "four tensors": (X[TRAIN], Y[TRAIN], X[TEST], Y[TEST]),
    "a list of four": [X[TRAIN] / 255, Y[TRAIN].tolist(), X[TEST] / 255, Y[TEST].tolist()],
    "two pairs, as Keras gives them": ARRAYS,
    "two torch data sets": (Pictures(TRAIN), Pictures(TEST)),
    "two of tensors": (TensorDataset(X[TRAIN], Y[TRAIN]), TensorDataset(X[TEST] / 255, Y[TEST])),
    "a torch data set and a pair": (Pictures(TRAIN), ARRAYS[1]),
    "two of columns": [Columns(TRAIN), Columns(TEST)],
    "a dictionary": {"train": Columns(TRAIN), "test": Columns(TEST)},
    "a dictionary of pairs": {"validation": ARRAYS[1], "train": ARRAYS[0]},
}
ONE_PART: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays, channels last": (X.permute(0, 2, 3, 1).numpy(), Y.numpy()),
    "lists of tensors": (list(X), Y.tolist()),
    "lists of pictures": ([picture for picture, _ in Pictures(slice(None))], list(Y)),
    "a torch data set": Pictures(slice(None)),
    "one of columns": Columns(slice(None)),
    "a dictionary of one": {"train": Pictures(slice(None))},
}


@pytest.mark.parametrize("kind", TWO_PARTS)
def test_two_parts_are_the_training_and_the_test_part(kind: str) -> None:
    data = load(TWO_PARTS[kind])
    assert data.fingerprint == WHOLE.fingerprint
    assert (data.split_off, data.name.startswith("own/")) == (False, True)
    named = "torch" in kind or "columns" in kind or kind == "a dictionary"
    assert data.classes == (("ant", "bee", "cat") if named else WHOLE.classes)
    measured = load_measured(TWO_PARTS[kind])
    assert measured.fingerprint == WHOLE.fingerprint
    assert torch.equal(measured.test.pixels, X[TEST])


@pytest.mark.parametrize("kind", ONE_PART)
def test_one_part_is_split_for_training_and_measured_as_a_whole_in_its_order(kind: str) -> None:
    train, test, words = split_off_test(Images(X, Y), "x")
    data = load(ONE_PART[kind])
    assert data.fingerprint == DataSet("x", ("0", "1", "2"), train, test).fingerprint
    assert data.split_off
    assert data.note.endswith(words)
    measured = load_measured(ONE_PART[kind])
    assert torch.equal(measured.test.pixels, X)
    assert torch.equal(measured.test.labels, Y)
    assert measured.note.endswith("all 30 images")
    # What the model was trained on is not new to it.
    own_test = load_measured(ONE_PART[kind], trained_on=data.fingerprint)
    assert torch.equal(own_test.test.pixels, test.pixels)
    assert own_test.fingerprint == data.fingerprint
    assert torch.equal(load_measured(ONE_PART[kind], trained_on="0" * 16).test.pixels, X)


def test_a_read_only_array_and_a_tensor_on_a_device_are_the_same_images(device: torch.device) -> None:
    fixed = X.numpy().copy()
    fixed.setflags(write=False)
    expected = load_measured((X, Y)).fingerprint
    assert load_measured((fixed, Y)).fingerprint == expected
    assert load_measured((X.to(device), Y.to(device))).fingerprint == expected
    assert load_measured(TensorDataset(X.to(device), Y.to(device))).fingerprint == expected


def test_what_is_measured_may_be_few_images_of_a_few_classes(refusal: Refusal) -> None:
    few = (X[:2], torch.tensor([7, 2]))
    measured = load_measured(few, trained_on="0" * 16)
    assert (len(measured.test), len(measured.classes)) == (2, 8)
    assert "own/arrays: found label 7 among 2 images: more classes than images" in refusal(lambda: load(few))
    stated = own(few, classes=8)
    assert "no test part, and a fifth of the 2 images cannot be split off" in refusal(lambda: load(stated))
    assert load_measured(stated, trained_on="0" * 16).classes == tuple("01234567")
    assert "own/arrays: y: label 7 in row 0 is outside the 5" in refusal(lambda: load_measured(own(few, classes=5)))


def test_of_several_parts_test_is_used_and_the_others_are_counted() -> None:
    parts = {"validation": Columns(slice(5)), "test": Columns(TEST), "train": Columns(TRAIN), "more": ARRAYS[1]}
    data = load(parts)
    assert data.fingerprint == WHOLE.fingerprint
    assert (
        data.note == "Columns; images of validation ignored: 5, test is used; images of more ignored: 10, test is used"
    )
    del parts["train"]
    assert torch.equal(load_measured(parts).test.pixels, X[TEST])


def test_names_say_what_was_given() -> None:
    with_info = Columns(TRAIN)
    with_info.info = type("Info", (), {"dataset_name": "beetles"})()  # type: ignore[attr-defined]
    named = {
        "own/arrays": (X, Y),
        "own/Pictures": (Pictures(TRAIN), ARRAYS[1]),
        "own/Columns": {"train": Columns(TRAIN)},
        "own/beetles": with_info,
        "own/birds": own((X, Y), name="birds"),
        "own/whole": WHOLE,
        "digits": DIGITS,
        "mnist": "mnist",
        "own/a.b:c": DataSet("a.b:c", WHOLE.classes, WHOLE.train, WHOLE.test),  # code that a name must not run
    }
    for name, data in named.items():
        assert data_name(data) == name
        if not isinstance(data, str):
            assert load(data).name == load_measured(data).name == name
        assert resolved_name(name) == name


def test_a_name_of_an_object_leads_nowhere_and_says_so(refusal: Refusal) -> None:
    words = refusal(lambda: load("own/arrays"), UsageError)
    assert "own/arrays: data that were given as an object, which no name leads to: give them again, data=..." in words


def test_a_data_set_is_taken_as_it_is_and_read_once() -> None:
    assert load(DIGITS) is DIGITS
    part = own((X, Y))
    assert isinstance(part, OnePart)
    assert load(part) is load(part)


def test_options_say_what_the_data_do_not(refusal: Refusal) -> None:
    tensors = (X[:, :, :4, :3], Y)
    assert torch.equal(load_measured(tensors).test.pixels, X[:, :, :4, :3])  # torch's layout
    cube = (X[:, :, :4, :3].numpy(), Y)  # of which either axis could be the channels
    assert "own/arrays: x of shape (30, 3, 4, 3) could be NHWC or NCHW" in refusal(lambda: load_measured(cube))
    part = own(cube, layout="NHWC", classes=["a", "b", "c"], name="cube")
    assert (part.name, part.classes, part.images.shape) == ("own/cube", ("a", "b", "c"), (3, 3, 4))
    assert from_arrays(X, Y, X, Y, name="x", classes=np.array(["a", "b", "c"])).classes == ("a", "b", "c")
    for options in ({"size": 3}, {"upright": True}, {"columns": ("a", "b")}):
        words = refusal(lambda options=options: own((X, Y), **options), UsageError)
        assert "own/arrays: arrays have no columns, and no pictures to resize or turn: leave these options out" in words
    for read in ("digits", WHOLE, part):
        words = refusal(lambda read=read: own(read), UsageError)
        assert words == f"own reads data of yours; a {type(read).__name__} goes to data= as it is"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "CHW"}, "layout is 'CHW', expected NCHW or NHWC"),
        ({"classes": "abc"}, "classes must be their number, 1 to 1,048,576, or a list of their names, found str"),
        ({"classes": 0}, "or a list of their names, found 0"),
        ({"classes": 2**40}, "found 1099511627776"),
        ({"classes": [1, 2]}, "found list"),
        ({"columns": "image"}, "columns must be two names, as in columns=('image', 'label')"),
        ({"columns": ("image",)}, "columns must be two names"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_line(options: dict[str, Any], words: str, refusal: Refusal) -> None:
    assert words in refusal(lambda: own((X, Y), **options), UsageError)
    if "columns" not in options:
        assert words in refusal(lambda: from_arrays(X, Y, X, Y, name="x", **options), UsageError)


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Endless(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return X[0], 0


WRONG: list[tuple[Any, str]] = [
    (None, "found NoneType, expected a data set's name, (x, y)"),
    (7, "found int, expected"),
    (X, "found Tensor of shape (30, 3, 5, 6) without labels, expected"),
    (X.numpy(), "found ndarray of shape (30, 3, 5, 6) without labels, expected"),
    ([], "found 0 things (), expected"),
    ([1, 2], "found 2 things (int, int), expected"),
    ((X, Y, X), "found 3 things (Tensor, Tensor, Tensor), expected"),
    (list(X), "found 30 things (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor ...), expected"),
    ({}, "found dict with the keys , expected"),
    ({"image": X, "label": Y}, "found dict with the keys image, label, expected"),
    ({str(X): X}, "found dict with the keys tensor([[["),
    (Path("photos"), "found PosixPath (a path is written folder:PATH or npz:PATH), expected"),
    (DataLoader(Pictures(TRAIN)), "found DataLoader (give its data set, loader.dataset), expected"),
    (Streamed(), "found Streamed (it has no length or no items by number: load it without streaming), expected"),
    (Endless(), "found Endless (it has no length or no items by number"),
    ({"train": Streamed()}, "found dict of Streamed (it has no length or no items by number"),
    (iter([]), "found list_iterator (it has no length or no items by number"),
    (load, "found function (give what it returns), expected"),
    (torch.nn.Flatten(), "found Flatten (give what it returns), expected"),
]


@pytest.mark.parametrize(("data", "words"), WRONG, ids=[type(data).__name__ for data, _ in WRONG])
def test_what_is_no_data_is_one_line_and_never_its_content(data: Any, words: str) -> None:
    for call in (load, load_measured, data_name, own):
        with pytest.raises(UsageError) as caught:
            call(data)
        message = str(caught.value)
        assert message.startswith(f"data: {words}")
        assert "\n" not in message
        assert len(message) < 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X, Y[:5]), "own/arrays: labels must be int64 of shape (30,), one for each image, found int64 of shape (5,)"),
        ((list(X), Y[:5]), "own/arrays: found 30 images and Tensor as labels, expected one label for each"),
        ((X, Y / 3), "own/arrays: y is float32 of shape (30,), expected one whole number for each image"),
        ((X, None), "own/arrays: y: found NoneType, expected a tensor or a NumPy array"),
        ((X / 2.0, Y), "own/arrays: pixels must be in [0, 1]; found max 127.5: divide by 255 or store uint8"),
        (
            (X, Y + 2**40),
            "own/arrays: y: found label 1,099,511,627,778, expected numbers from 0 on: number the classes",
        ),
        ((X, Y - 1), "own/arrays: y: label -1 in row 0 is outside the 2 classes"),
        (
            (Pictures(TRAIN), TensorDataset(X[:, :, 1:], Y)),
            "own/Pictures: test images are (3, 4, 6) (C, H, W) but train",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(data: Any, words: str, refusal: Refusal) -> None:
    assert words in refusal(lambda: load_measured(data))


def test_parts_whose_classes_have_different_names_are_refused(refusal: Refusal) -> None:
    other = Pictures(TEST)
    other.classes = ("bee", "ant", "cat")
    words = refusal(lambda: load((Pictures(TRAIN), other)))
    assert (
        "own/Pictures: the classes of train and test have different names: name the classes: corral.data.own" in words
    )
    assert own((Pictures(TRAIN), other), classes=3).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "returned", ["(x, y)", "TensorDataset(x, y)", "{'train': TensorDataset(x, y)}", "((x, y), (x, y))"]
)
def test_a_function_may_return_any_of_them(returned: str, tmp_path: Path) -> None:
    path = tmp_path / f"own_{abs(hash(returned))}.py"
    path.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n\n\ndef data():\n"
        "    x, y = torch.arange(30 * 60).view(30, 3, 4, 5) / 1800, torch.arange(30) % 3\n"
        f"    return {returned}\n"
    )
    name, x = f"{path}:data", torch.arange(30 * 60).view(30, 3, 4, 5) / 1800
    assert load(name).name == name
    measured = load_measured(name)
    assert (measured.name, len(measured.test)) == (name, 30)
    assert torch.equal(measured.test.pixels, x)


def test_hugging_faces_own_data_sets() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    parts = {}
    for part, rows in (("train", TRAIN), ("test", TEST)):
        pictures = Pictures(rows)
        columns = {"image": [picture for picture, _ in pictures], "label": [label for _, label in pictures]}
        parts[part] = datasets.Dataset.from_dict(columns, features=features)
    for data in (datasets.DatasetDict(parts), datasets.DatasetDict(parts).with_format("torch")):
        found = load(data)
        assert (found.fingerprint, found.classes) == (WHOLE.fingerprint, ("ant", "bee", "cat"))
    with pytest.raises(UsageError, match="found IterableDataset"):
        load(parts["train"].to_iterable_dataset())


def test_one_float_that_is_no_level_keeps_all_as_they_are() -> None:
    """Also where it is in another part of the images than the first that is compared with levels."""
    x = (X.repeat(12, 1, 1, 1) / 255).double()
    levels = load_measured((x, Y.repeat(12))).test.pixels
    assert torch.equal(levels, X.repeat(12, 1, 1, 1))
    x[-1, 0, 0, 0] = 0.1234
    assert torch.equal(load_measured((x, Y.repeat(12))).test.pixels, x.float())
