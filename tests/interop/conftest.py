"""What the checks with other libraries share: the row of docs/interop.md that each writes, models and images.

A check whose package is absent is skipped, and without the environment variable CORRAL_INTEROP all are: they take
minutes. `make interop` installs the packages and sets it to docs/interop.md, whose table is then written again.
"""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from tests.interop.shared import SIDE, import_torchvision

from corral.data import load
from corral.training import load_model, train

ASKED = os.environ.get("CORRAL_INTEROP", "")
BEGIN, END = "<!-- interop table, made by `make interop` -->\n", "<!-- end -->\n"
TRAINED = {"epochs": 4, "width": 8, "features": 32, "progress": False, "device": "cpu"}


@dataclass
class Row:
    """A line of the table; without a result the check did not come to its end."""

    tool: str
    version: str
    ran: str
    result: str = ""


ROWS: list[Row] = []


@pytest.fixture
def interop():
    """begin(tool, distribution, what is run, *modules): the row and the imported modules, or a skip."""
    if not ASKED:
        pytest.skip("with other libraries: `make interop` runs it")

    def begin(tool, distribution, ran, *modules):
        try:
            row = Row(tool, version(distribution), ran)
        except PackageNotFoundError:
            row = Row(tool, "–", ran)
        ROWS.append(row)
        try:
            import_torchvision()
            reason = f"{distribution} is not installed"
            return (row, *(pytest.importorskip(name, reason=reason, exc_type=ImportError) for name in modules))
        except pytest.skip.Exception as skipped:
            row.result = f"skipped: {skipped.msg}"
            raise

    return begin


@pytest.fixture(scope="session")
def images():
    """100 test digits (100, 1, 8, 8) in [0, 1] and their labels."""
    test = load("digits").test
    return test.float()[:100], test.labels[:100]


@pytest.fixture(scope="session")
def colours():
    """32 images (32, 3, 32, 32) of four classes that differ in their colour, and their labels."""
    means = torch.tensor([[0.7, 0.4, 0.3], [0.3, 0.5, 0.7], [0.5, 0.7, 0.4], [0.3, 0.3, 0.5]])
    labels = torch.arange(32) % 4
    noise = torch.rand(32, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5
    return (means[labels].view(32, 3, 1, 1) + 0.4 * noise).clamp(0, 1), labels


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
    """Classifiers by recipe, trained in seconds: cluster head and linear head."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: load_model(train(name, out=folder / name, **TRAINED))[0] for name in ("corral", "at")}


def pytest_sessionfinish(session, exitstatus):
    """Write the table where a document was named."""
    path = Path(ASKED)
    if path.suffix != ".md" or not ROWS:
        return
    lines = ["", "| tool | version | what was run | result |", "| --- | --- | --- | --- |"]
    for row in sorted(ROWS, key=lambda row: row.tool.lower()):
        result = row.result or "**failed**"
        lines.append(f"| {row.tool} | {row.version} | {row.ran} | {result} |")
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    path.write_text("".join([before, BEGIN, "\n".join([*lines, "", ""]), END, after]), encoding="utf-8")
