from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from corral.data import DATA_SETS, PATH_DATA_SETS, DataSet, load, loaded_once
from corral.errors import UsageError


@pytest.mark.parametrize("name", ["digits", "toy-moons", "toy-circles"])
def test_the_listing_says_what_the_data_are(name: str) -> None:
    data, entry = load(name), DATA_SETS[name]
    assert data.name == entry.name == name
    assert data.train.shape == entry.shape
    assert len(data.classes) == entry.classes


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_the_listing_says_what_the_real_data_are(name: str, real_small: object) -> None:
    data, entry = load(name, root=str(real_small), download=False), DATA_SETS[name]
    assert data.name == name
    assert data.train.shape == entry.shape
    assert len(data.classes) == entry.classes


def test_every_entry_is_listed_under_its_own_name() -> None:
    assert all(
        name == entry.name and "\n" not in entry.description
        for name, entry in (*DATA_SETS.items(), *PATH_DATA_SETS.items())
    )
    assert set(PATH_DATA_SETS) == {"folder", "npz"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("minst", "mnist"),
        ("CIFAR10", "cifar10"),
        ("cifar-100", "cifar100"),
        ("stl", None),
        ("", None),
        ("folder:", "folder:PATH"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: str, near: str | None, refusal: Callable[..., str]) -> None:
    message = refusal(lambda: load(name), UsageError)
    assert message.startswith(f"unknown data set {name!r}")
    assert all(known in message for known in (*DATA_SETS, "folder:PATH", "npz:PATH"))
    assert near is None or f"did you mean {near!r}?" in message


def test_within_loaded_once_the_files_are_read_once_and_after_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    entry = DATA_SETS["digits"]

    def loader(root: Path | None, download: bool) -> DataSet:
        read.append(root)
        return entry.loader()

    monkeypatch.setitem(DATA_SETS._things, "digits", replace(entry, loader=loader))
    with loaded_once():
        assert load("digits") is load("digits")
        assert load("digits", root="elsewhere") is load("digits", root=Path("elsewhere"))
    assert load("digits") is not load("digits")
    assert read == [None, Path("elsewhere"), None, None]
