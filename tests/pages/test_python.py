"""Every block of Python in README and docs runs, in the order of its page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.pages.blocks import PAGES, ROOT, blocks, code
from torch import nn

import corral
from corral.attacks.autoattack import standard_attacks
from corral.models.backbones import BACKBONES


class Net(nn.Module):
    """A network of a user's, for images of one channel or of three."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(channels, 6, 3), nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(self.layer4(x).relu().mean((2, 3)))


@dataclass(frozen=True)
class Setting:
    """What a page's blocks find, and what is smaller than on the page."""

    names: Callable[[], dict[str, Any]] = dict
    replaced: dict[str, str] = field(default_factory=dict)
    # AutoAttack's first attack alone.
    short: bool = True


def digits(n: int = 20) -> dict[str, Any]:
    """A network and its data, as users have them."""
    torch.manual_seed(0)
    data = corral.data.load("digits")
    test, train = (corral.data.stratified_subset(part, n, seed=0) for part in (data.test, data.train))
    found = {"torch": torch, "corral": corral, "net": Net(), "model": Net().eval(), "make": Net}
    found |= {"x": test.float(), "y": test.labels, "x_train": train.float(), "y_train": train.labels}
    return found | {"features": torch.rand(40, 3), "labels": torch.arange(40) % 2, "my_dataset": (test.float(), test.labels)}


def run_in(folder: str) -> None:
    """A run as a page supposes it."""
    small = {"data.train": 60, "model.width": 4, "epochs": 1, "progress": False}
    corral.evaluate(corral.train("at", data="digits", out=folder, **small), n=20, progress=False)


def with_runs(*folders: str) -> Callable[[], dict[str, Any]]:
    def made() -> dict[str, Any]:
        for folder in folders:
            run_in(folder)
        return digits()

    return made


def resnet() -> dict[str, Any]:
    """What audit.md's file supposes beside it."""
    run_in("runs/at")
    return digits()


def normalise() -> dict[str, Any]:
    class Normalise(nn.Module):
        def __init__(self, mean: float, std: float) -> None:
            super().__init__()
            self.mean, self.std = mean, std

        def forward(self, x):
            return (x - self.mean) / self.std

    return digits(40) | {"Normalise": Normalise, "mean": 0.5, "std": 0.25}


ONE_EPOCH = {"epochs=30": "epochs=1", "epochs=5": "epochs=1", "epochs=2": "epochs=1"}
CIFAR = {'normalise="cifar10"': 'normalise="half"', '"cifar10"': '"digits"'}
SETTINGS = {
    "README.md": Setting(digits, ONE_EPOCH),
    "docs/get-started.md": Setting(replaced=ONE_EPOCH | {"[:100]": "[:20]", "n=100": "n=20"}),
    "docs/audit.md": Setting(resnet),
    "docs/diagnostics.md": Setting(digits),
    "docs/train.md": Setting(
        lambda: digits() | {"make": lambda: Net(3)},
        ONE_EPOCH | {'data="cifar10", out': 'data=(x, y), eps="8/255", epochs=1, out', 'data=my_dataset, out="runs/b"': 'data=(x, y), epochs=1, out="runs/b"'},
    ),
    "docs/cluster.md": Setting(digits, CIFAR),
    "docs/attacks.md": Setting(digits),
    "docs/faq.md": Setting(normalise),
}
# By page and number: why a block is not run here, and where it is.
ELSEWHERE = {
    ("docs/hub.md", 0): "pushes to a hub: tests/models/test_hub.py has these calls, without a network",
    ("docs/hub.md", 1): "reads from a hub: tests/models/test_hub.py",
    ("docs/interop.md", 0): "libraries that `make interop` installs: tests/interop",
    ("docs/interop.md", 1): "tests/test_sklearn.py has these calls on small data",
}
EXTENDING = "docs/extending/"


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
    if setting.short:
        for home in ("corral.audit.audit", "corral.attacks.protocols"):
            monkeypatch.setattr(f"{home}.standard_attacks", lambda *about: standard_attacks(*about)[:1])
    wanted = [
        block for number, block in enumerate(python_of(page)) if (page, number) not in ELSEWHERE and block.file is None
    ]
    if not wanted:
        return
    names = setting.names()
    for block in wanted:
        code(block, names, setting.replaced)


def test_every_setting_is_of_a_page_and_changes_something():
    for page, setting in SETTINGS.items():
        text = "".join(block.text for block in python_of(page))
        unused = [before for before in setting.replaced if before not in text and before not in ONE_EPOCH]
        assert (page, unused) == (page, [])


def test_what_is_not_run_here_has_a_reason_and_is_there():
    for (page, number), reason in ELSEWHERE.items():
        assert number < len(python_of(page)), page
        named = [word.rstrip(":,") for word in reason.split() if word.startswith("tests/")]
        assert named and all((ROOT / name).exists() for name in named), reason


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
