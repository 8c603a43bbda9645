"""The loop of docs/extending/loop.md runs as it stands there, and is the shipped method."""

import ast
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import corral
from corral.training import Run, Training, load_recipe

ROOT = Path(__file__).resolve().parents[2]
LOOP = ROOT / "examples" / "own_loop.py"
PAGE = (ROOT / "docs/extending/loop.md").read_text(encoding="utf-8")


def test_a_model_of_the_loop_is_attacked_and_analysed(extending: Callable[[str], str]) -> None:
    output = extending("extending/loop.md")
    assert "worst_case" in output


def test_the_page_has_the_examples_functions() -> None:
    blocks = [block.split("```")[0] for block in PAGE.split("```python\n")[1:]]
    shown, example = (
        {node.name: ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        for text in ("".join(blocks).replace("mine.py", "own_loop.py"), LOOP.read_text())
    )
    assert shown.items() <= example.items()
    assert {"refit", "batch_loss", "fit", "trained"} == shown.keys()


def test_the_recipe_has_at_most_25_lines() -> None:
    """Of `refit`, `batch_loss` and `fit`, without what documents them."""
    lines = 0
    for node in ast.parse(LOOP.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("refit", "batch_loss", "fit"):
            lines += node.end_lineno - node.lineno  # and one, less its docstring
    assert lines <= 25


@pytest.mark.parametrize("clusters", [1, 2])
def test_it_trains_the_weights_of_the_shipped_method(tmp_path, clusters) -> None:
    settings = {"data.train": 150, "model.width": 4, "model.features": 8, "warm_start.epochs": 0, "epochs": 2}
    recipe = load_recipe("corral", data="digits", overrides=settings | {"clusters": clusters, "eps": 0.1})
    begun = Training(recipe, Run(tmp_path / "begun"), torch.device("cpu"), progress=False)
    begun.model.head = begun.method.make_head()
    runpy.run_path(str(LOOP))["fit"](begun.model, begun.images, clusters=clusters, epochs=2)
    own = begun.model.state_dict()
    shipped = corral.train(recipe, out=tmp_path / "run", progress=False).model
    assert own.keys() == shipped.state_dict().keys()
    for name, tensor in shipped.state_dict().items():
        assert torch.equal(tensor, own[name]), name
