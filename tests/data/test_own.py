"""Data sets of the user's own: a function that is registered, or named by its file."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import corral
from corral.data import DATA_SETS, PATH_DATA_SETS, DataSet, Images, from_arrays, is_known, load, resolved_name
from corral.errors import CorralError, UsageError
from corral.registry import import_plugin

Refusal = Callable[..., str]
BLOBS = """
import torch

def blobs():
    labels = torch.arange(60) % 3
    x = (labels.view(-1, 1, 1, 1) * 60 + torch.arange(64).view(1, 1, 8, 8)).byte()
    return x[:40], labels[:40], x[40:], labels[40:]
"""


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers goes with it."""
    for registry in (DATA_SETS, PATH_DATA_SETS):
        registry.names()
        monkeypatch.setattr(registry, "_things", dict(registry._things))
        monkeypatch.setattr(registry, "_places", dict(registry._places))


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "blobs.py"
    path.write_text(BLOBS)
    yield path
    forget()


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("corral_plugin_blobs")]:
        del sys.modules[name]


def arrays(n: int = 12, shape: tuple[int, ...] = (3, 4, 5)) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    y = np.arange(n) % 3
    return x, y, x[:6], y[:6]


def test_a_registered_function_is_a_data_set_by_name(tmp_path: Path) -> None:
    asked = []

    @corral.register.data("own-blobs", description="three blobs", shape=(3, 4, 5), classes=("a", "b", "c"))
    def blobs(root: Path | None, download: bool) -> tuple[np.ndarray, ...]:
        asked.append((root, download))
        return arrays()

    data = load("own-blobs", root=tmp_path, download=False)
    assert (data.name, data.note, data.classes) == ("own-blobs", "three blobs", ("a", "b", "c"))
    assert torch.equal(data.train.pixels, torch.from_numpy(arrays()[0]))
    assert asked == [(tmp_path, False)]
    assert DATA_SETS["own-blobs"].description == "three blobs"


def test_a_loader_may_take_nothing_and_return_a_data_set(refusal: Refusal) -> None:
    part = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2)

    @corral.register.data("made", shape=(1, 2, 2))
    def made() -> DataSet:
        return DataSet("anything", ("0", "1"), part, part)

    assert load("made").name == "made"

    @corral.register.data("other-made", shape=(1, 3, 3))
    def other() -> DataSet:
        return made()

    assert "images are (1, 2, 2) (C, H, W), expected (1, 3, 3)" in refusal(lambda: load("other-made"))


def test_a_kind_at_a_path(tmp_path: Path) -> None:
    part = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2)

    @corral.register.path_data("raw", description="raw bytes")
    def raw(path: Path) -> DataSet:
        return DataSet(f"raw:{path}", ("0", "1"), part, part)

    assert load(f"raw:{tmp_path}").name == f"raw:{tmp_path}"
    assert is_known("raw:anywhere")


def test_a_function_is_named_by_its_file_which_is_kept_whole(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(blobs.parent)
    whole = f"{blobs.resolve()}:blobs"
    data = load("blobs.py:blobs")
    assert data.name == whole == resolved_name("blobs.py:blobs")
    assert (data.train.shape, data.classes, len(data.test)) == ((1, 8, 8), ("0", "1", "2"), 20)
    assert load(whole).fingerprint == data.fingerprint


def test_what_was_registered_by_a_file_is_described_by_its_target_too(blobs: Path) -> None:
    registered = '@corral.register.data("blobs", classes=7)\ndef blobs'
    blobs.write_text("import corral\n" + BLOBS.replace("def blobs", registered))
    assert len(load(f"{blobs}:blobs").classes) == 7
    assert load("blobs").fingerprint == load(f"{blobs}:blobs").fingerprint


def test_a_document_imports_no_code(blobs: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    blobs.write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n{BLOBS}")
    assert is_known(f"{blobs}:blobs")
    for call in (load, resolved_name):
        with pytest.raises(UsageError, match=r"which a document does not make it run.*--plugin"):
            call(f"{blobs}:blobs", code=False)
    assert not ran.exists()
    import_plugin(str(blobs))
    assert len(load(f"{blobs}:blobs", code=False).train) == 40


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no')", "its loader failed (ValueError: no)"),
        ("return 3", "its loader returned int, expected (x_train, y_train, x_test, y_test) or a corral.data.DataSet"),
        ("return 3, 4", "its loader returned 2 things, expected (x_train"),
        ("return 'x', y, x, y", "x_train: found str, expected a tensor or a NumPy array"),
        ("return [[1, 2], [3]], y, x, y", "x_train: found list that is no array of numbers (setting an array element"),
        (
            "return [1], [2], [3], [4]",
            "x_train is int64, expected uint8 or floats in [0, 1]: convert it (found 1 to 1)",
        ),
        ("return x.byte(), y, x, y", "x_train is uint8 of 0 and 1 alone, almost black where 255 is white: multiply it"),
        ("return x * 1.001, y, x, y", "x_train: pixels must be in [0, 1]; found 0.001 outside of it: clip them"),
        (
            "return x, y + 1, x, y + 1",
            "no image of class 0 among 8, of 5 classes; labels that count from 1 leave class",
        ),
        (
            "return x, y * 2, x, y * 2",
            "no image of class 1, 3, 5 among 8, of 7 classes; number the labels from 0 without",
        ),
        ("return x.int(), y, x, y", "x_train is int32, expected uint8 or floats in [0, 1]: convert it"),
        ("return x * 2.0, y, x, y", "x_train: pixels must be in [0, 1]; found max 2: divide by 255 or store uint8"),
        ("return x[:, 0, 0], y, x, y", "x_train has the shape (4, 5), expected (N, H, W), (N, H, W, C) or (N, C, H, W"),
        ("return x, y, x[..., :2], y", "test images are (1, 5, 2) (C, H, W) but train images are (1, 5, 5)"),
        ("return x, y - 1, x, y", "y_train: label -1 in row 0 is outside the 4 classes (0 to 3)"),
        ("return x, y.float(), x, y", "y_train is float32 of shape (4,), expected one whole number for each image"),
        ("return x, y[:3], x, y", "x_train: labels must be int64 of shape (4,), one for each image"),
        ("return x, y * 100, x, y", "found label 300 among 8 images: more classes than images"),
        ("return x[:, :, :0], y, x, y", "x_train: pixels must have the shape (N, C, H, W), found (4, 1, 0, 5)"),
    ],
)
def test_what_is_no_data_set_is_one_line(blobs: Path, refusal: Refusal, body: str, words: str) -> None:
    blobs.write_text(f"import torch\ndef blobs():\n    x, y = torch.ones(4, 1, 5, 5), torch.arange(4)\n    {body}\n")
    message = refusal(lambda: load(f"{blobs}:blobs"))
    assert words in message
    assert str(blobs.resolve()) in message


def test_something_else_than_a_function_is_refused(blobs: Path, refusal: Refusal) -> None:
    blobs.write_text("blobs = 7\n")
    message = refusal(lambda: load(f"{blobs}:blobs"), UsageError)
    assert "is no data set: expected a function that returns" in message


@pytest.mark.parametrize("make", [torch.as_tensor, np.asarray, lambda x: torch.as_tensor(x).to(torch.int32)])
def test_labels_of_any_whole_type(make: Callable) -> None:
    x, y, x_test, y_test = arrays()
    data = from_arrays(x, make(y), x_test, make(y_test), name="own")
    assert data.train.labels.tolist() == y.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_floats_of_any_width_are_images(dtype: torch.dtype) -> None:
    x = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.arange(4)
    data = from_arrays(x, y, x, y, name="own")
    assert torch.equal(data.train.pixels, x.float())


def test_lists_and_an_excess_of_rounding_are_taken() -> None:
    x, y, x_test, y_test = arrays()
    floats = np.clip(x / 255, 0, 1)
    over = np.where(floats == floats.max(), 1 + 1e-7, np.where(floats == floats.min(), -1e-7, floats))
    data = from_arrays(over.tolist(), y.tolist(), x_test / 255, tuple(y_test), name="own")
    expected = np.where(floats == floats.max(), 255, np.where(floats == floats.min(), 0, x))
    assert np.array_equal(data.train.pixels.numpy(), expected)
    assert data.train.labels.tolist() == y.tolist()


def test_a_class_without_training_images_is_no_class_to_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: Refusal
) -> None:
    """Where the classes are stated, a set without some of them serves an audit, but no training."""
    x, y, x_test, y_test = arrays()

    @corral.register.data("five-named", classes=("a", "b", "c", "d", "e"))
    def five() -> tuple[np.ndarray, ...]:
        return x, y + 1, x_test, y_test + 1

    assert load("five-named").classes == ("a", "b", "c", "d", "e")
    for method in ("at", "trades", "mat", "corral", "nominal"):
        small = {"model.backbone": "mlp", "model.hidden": [8], "threat.eps": 0.1}
        words = refusal(
            lambda method=method, small=small: corral.train(
                method, data="five-named", out=tmp_path / "run", progress=False, device="cpu", **small
            )
        )
        assert "five-named: train: no image of class a, e among 12, of 5 classes; number the labels from 0" in words
    assert not (tmp_path / "run").exists()


def test_the_shape_that_is_stated_says_how_images_lie(refusal: Refusal) -> None:
    x, y, x_test, y_test = arrays(shape=(3, 4, 3))  # by themselves they could be either
    assert 'could be NHWC or NCHW: state layout="NHWC" or "NCHW"' in refusal(
        lambda: from_arrays(x, y, x_test, y_test, name="own")
    )
    first = from_arrays(x, y, x_test, y_test, name="own", shape=(3, 4, 3))
    last = from_arrays(x, y, x_test, y_test, name="own", shape=(3, 3, 4))
    stated = from_arrays(x, y, x_test, y_test, name="own", layout="NHWC")
    assert torch.equal(first.train.pixels, torch.from_numpy(x))
    assert torch.equal(last.train.pixels, torch.from_numpy(x).permute(0, 3, 1, 2))
    assert torch.equal(stated.train.pixels, last.train.pixels)
    words = "x_train: images are (3, 4, 3) (C, H, W), expected (1, 4, 3)"
    assert words in refusal(lambda: from_arrays(x, y, x_test, y_test, name="own", shape=(1, 4, 3)))
    cube = arrays(shape=(3, 3, 3))
    assert "could be NHWC or NCHW" in refusal(lambda: from_arrays(*cube, name="own", shape=(3, 3, 3)))
    gray = arrays(shape=(4, 5))
    assert from_arrays(*gray, name="own", shape=(1, 4, 5)).train.shape == (1, 4, 5)


def test_a_run_on_a_function_records_it_whole_and_is_evaluated_where_it_is_trusted(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(blobs.parent)
    whole = f"{blobs.resolve()}:blobs"
    small = {"training.epochs": 1, "model.backbone": "mlp", "model.hidden": [8], "threat.eps": 0.1}
    run = corral.train("nominal", data="blobs.py:blobs", out=tmp_path / "run", progress=False, device="cpu", **small)
    assert f'name = "{whole}"' in (run / "recipe.toml").read_text()
    record = corral.evaluate(run, progress=False, device="cpu", n=5)
    assert record.data == whole
    # The same call goes on; the folder asks for nothing else.
    corral.train("nominal", data="blobs.py:blobs", out=run, resume=True, progress=False, device="cpu", **small)
    forget()
    for call in (
        lambda: corral.evaluate(run, progress=False, device="cpu"),
        lambda: corral.train(run, out=tmp_path / "again", progress=False, device="cpu"),
        lambda: corral.audit(str(run), None, minutes=1, progress=False, device="cpu"),
    ):
        with pytest.raises(UsageError, match="is code outside corral"):
            call()
    import_plugin(str(blobs))
    assert corral.evaluate(run, progress=False, device="cpu", n=5).data_fingerprint == record.data_fingerprint
    blobs.write_text(BLOBS.replace("* 60", "* 61"))
    forget()
    import_plugin(str(blobs))
    with pytest.raises(CorralError, match="trained on other data"):
        corral.evaluate(run, progress=False, device="cpu", overwrite=True)
    shutil.move(blobs, tmp_path / "moved.py")
    forget()
    with pytest.raises(UsageError, match="is code outside corral"):
        corral.evaluate(run, progress=False, device="cpu")
