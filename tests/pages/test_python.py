"""Every block of Python in README and docs runs, in the order of its page."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pages.blocks import PAGES, ROOT, blocks, code
from torch import nn

import corral
from corral.models.backbones import BACKBONES


def network(channels: int = 1) -> nn.Module:
    """A network as a user has it, for images of one channel or of three."""
    layers = {"layer4": nn.Conv2d(channels, 6, 3), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    return nn.Sequential(OrderedDict(layers | {"flat": nn.Flatten(), "fc": nn.Linear(6, 10)}))


@dataclass(frozen=True)
class Setting:
    """What a page's blocks find, what is smaller than on the page, and what must be true at its end."""

    names: Callable[[], dict[str, Any]] = dict
    replaced: dict[str, str] = field(default_factory=dict)
    holds: Callable[[dict[str, Any]], bool] = lambda names: True


def given(n: int = 10) -> dict[str, Any]:
    """A network and its data, as users have them."""
    torch.manual_seed(0)
    data = corral.data.load("digits")
    test, train = (corral.data.stratified_subset(part, n, seed=0) for part in (data.test, data.train))
    found = {"torch": torch, "net": network(), "model": network().eval(), "x": test.float(), "y": test.labels}
    return found | {"x_train": train.float(), "y_train": train.labels}


def beside_a_run() -> dict[str, Any]:
    """The same, with a run of an earlier day."""
    small = {"data.train": 60, "model.width": 4, "epochs": 1, "progress": False}
    corral.evaluate(corral.train("at", data="digits", out="runs/at", **small), attacks=["fgsm"], n=10, progress=False)
    return given()


class Normalise(nn.Module):
    """What a user puts before a network."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


def within(names: dict[str, Any], eps: float) -> bool:
    return bool((names["x_adv"] - names["x"]).abs().max() <= eps + 1e-6)


ONE_EPOCH = {"epochs=30": "epochs=1"}
CIFAR = {'normalise="cifar10"': 'normalise="half"', '"cifar10"': '"digits"'}
SETTINGS = {
    "README.md": Setting(
        lambda: given(20),
        ONE_EPOCH,
        lambda names: (
            (names["record"].n, names["record"].eps, names["found"].n_attacked) == (20, 8 / 255, 20)
            and names["found"].verdict in ("pass", "masked")
            and names["run"].recipe.training.epochs == 1
            and (len(names["clusters"].head.centroids), Path("report.html").is_file()) == (20, True)
        ),
    ),
    "docs/get-started.md": Setting(
        replaced=ONE_EPOCH | {"[:100]": "[:20]", "n=100": "n=20"},
        holds=lambda names: within(names, 0.1) and names["record"].n == 20 and Path("report.html").is_file(),
    ),
    "docs/audit.md": Setting(beside_a_run, holds=lambda names: Path("report.html").is_file()),
    "docs/diagnostics.md": Setting(given),
    "docs/train.md": Setting(
        lambda: {"make": lambda: network(3)},
        {"epochs=2": "epochs=1", 'data="cifar10", out': 'data=(x, y), eps="8/255", epochs=1, out'}
        | {"data=my_dataset,": "data=(x, y), epochs=1,"},
        lambda names: names["record"].n == 20 and names["run"].info.classes == ["cat", "dog"],
    ),
    "docs/cluster.md": Setting(
        lambda: given(40) | {"features": torch.rand(40, 3), "labels": torch.arange(40) % 2},
        {'normalise="cifar10"': 'normalise="half"', '"cifar10"': '"digits"', "n=50": "n=10"},
        lambda names: names["model"].head.num_classes == 10 and names["head"].centroids.shape == (4, 3),
    ),
    "docs/attacks.md": Setting(given, holds=lambda names: within(names, 8 / 255)),
    "docs/faq.md": Setting(lambda: given() | {"Normalise": Normalise, "mean": 0.5, "std": 0.25}, {"n=40": "n=10"}),
}
# By page and number: why a block is not run here, and where it is.
ELSEWHERE = {
    ("docs/hub.md", 0): "pushes to a hub: tests/models/test_hub.py has these calls, without a network",
    ("docs/hub.md", 1): "reads from a hub: tests/models/test_hub.py",
    ("docs/interop.md", 0): "libraries that `make interop` installs: tests/interop",
    ("docs/interop.md", 1): "tests/test_sklearn.py has these calls on small data",
}
EXTENDING = "docs/extending/"
standard_attacks = import_module("corral.attacks.autoattack").standard_attacks


def python_of(page: str) -> list:
    return [block for block in blocks(page) if block.language in ("python", "py", "pycon")]


@pytest.fixture(autouse=True)
def forgotten():
    yield
    BACKBONES._held.clear()


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page) and not page.startswith(EXTENDING)])
def test_its_python_runs_in_order(page, tmp_path, monkeypatch):
    setting = SETTINGS.get(page, Setting())
    monkeypatch.chdir(tmp_path)
    # AutoAttack's first attack alone.
    for home in ("corral.audit.audit", "corral.attacks.protocols", "corral.attacks.autoattack"):
        monkeypatch.setattr(import_module(home), "standard_attacks", lambda *about: standard_attacks(*about)[:1])
    wanted = [
        block for number, block in enumerate(python_of(page)) if (page, number) not in ELSEWHERE and block.file is None
    ]
    if not wanted:
        return
    names = setting.names()
    for block in wanted:
        code(block, names, setting.replaced)
    assert setting.holds(names)


def test_every_setting_is_of_a_page_and_changes_something():
    for page, setting in SETTINGS.items():
        text = "".join(block.text for block in python_of(page))
        unused = [before for before in setting.replaced if before not in text]
        assert (page, unused) == (page, [])


def test_what_is_not_run_here_has_a_reason_and_is_there():
    for (page, number), reason in ELSEWHERE.items():
        assert number < len(python_of(page)), page
        named = [word.rstrip(":,") for word in reason.split() if word.startswith("tests/")]
        assert named, reason
        assert all((ROOT / name).exists() for name in named), reason


def test_the_pages_on_extending_are_run_by_their_own_tests():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "extending").glob("test_*.py")]
    for page in PAGES:
        if page.startswith(EXTENDING) and python_of(page):
            assert any(page.removeprefix("docs/") in text for text in texts), page


def test_the_audited_file_of_the_page_builds_its_model(tmp_path, monkeypatch):
    """docs/audit.md's resnet.py, with a network in the place of the user's."""
    (block,) = (block for block in python_of("docs/audit.md") if block.file)
    (tmp_path / block.file).write_text(block.text)
    (tmp_path / "mine.py").write_text("from torch import nn\n\n\ndef ResNet18():\n    return nn.Linear(4, 2)\n")
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    save_file(nn.Linear(4, 2).state_dict(), "weights.safetensors")
    assert isinstance(corral.targets.load_target("resnet.py:load").model, nn.Module)
