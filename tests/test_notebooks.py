"""The notebooks run, and what they show is what they committed."""

import json
import math
import re
import runpy
import tempfile
from pathlib import Path

import pytest
import torch

from corral.models.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOOL = runpy.run_path(str(ROOT / "scripts" / "notebooks.py"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def texts(outputs):
    """What a cell shows as text: printed, and its value."""
    return ["".join(one["text"] if "text" in one else one["data"]["text/plain"]) for one in outputs]


def alike(found, committed):
    """Whether texts are the same but for numbers that differ by 6%: trainings part by another processor's rounding."""
    numbers = zip(map(float, NUMBER.findall(found)), map(float, NUMBER.findall(committed)), strict=False)
    same_words = " ".join(NUMBER.sub("#", found).split()) == " ".join(NUMBER.sub("#", committed).split())
    return same_words and all(math.isclose(a, b, rel_tol=0.06, abs_tol=0.011) for a, b in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_committed(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        shown = TOOL["run"](path)
    BACKBONES._held.clear()
    for cell, outputs in zip(code_cells(path), shown, strict=True):
        assert [one["output_type"] for one in outputs] == [one["output_type"] for one in cell["outputs"]]
        for found, committed in zip(texts(outputs), texts(cell["outputs"]), strict=True):
            assert alike(found, committed), f"run `make notebooks`\n{found}\n{committed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_run_whole_and_holds_no_trace_of_when_or_where(path):
    notebook, cells = json.loads(path.read_text()), code_cells(path)
    assert notebook["nbformat"] == 4
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert path.stat().st_size < 300_000
    for cell in cells:
        assert cell["metadata"] == {}
        assert {one["output_type"] for one in cell["outputs"]} <= {"stream", "execute_result"}
        assert all(one.get("name", "stdout") == "stdout" for one in cell["outputs"])
        for text in texts(cell["outputs"]):
            assert (
                re.search(r"/tmp|/home|/root|\.venv|0x[0-9a-f]{6}|\d+ ?(s|seconds|min)\b|20\d\d-\d\d", text) is None
            ), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_links_to_is_there(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert all("://" in target or (path.parent / target).is_file() for target in links), links


def test_numbers_that_differ_and_words_that_differ_are_noticed():
    assert alike("clean 97.5%, robust 70", "clean  98.0%, robust 71")
    assert not alike("clean 97.5%", "clean 80.0%")
    assert not alike("verdict: pass", "verdict: masked")
    assert not alike("1 2", "1")


def test_a_cell_shows_what_it_prints_and_its_last_value(tmp_path):
    cells = [["a = 2\n", "print(a)\n", "a + 1"], ["a * 10"], ["b = a"]]
    notebook = {"cells": [{"cell_type": "markdown", "source": ["x"]}]}
    notebook["cells"] += [{"cell_type": "code", "source": source} for source in cells]
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    TOOL["write"](tmp_path / "n.ipynb")
    assert [texts(cell["outputs"]) for cell in code_cells(tmp_path / "n.ipynb")] == [["2\n", "3"], ["20"], []]
    assert [cell["execution_count"] for cell in code_cells(tmp_path / "n.ipynb")] == [1, 2, 3]
