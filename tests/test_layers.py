"""Imports point one way: a part of the package uses what stands before it, and nothing after it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "corral"
LAYERS = (
    {"errors", "version", "precision", "renamed", "strict", "terminal", "notebook"},
    {"files"},
    {"devices", "registry", "options", "progress", "reading", "workers", "processes", "checksums", "zoo"},
    {"documents", "lock", "checkpoints", "distributed"},
    {"records"},
    {"data", "geometry"},
    {"losses"},
    {"models"},
    {"attacks", "certify"},
    {"training"},
    {"targets"},
    {"evaluation", "clustering"},
    {"analysis", "audit"},
    {"report"},
    {"papers", "register", "api", "sklearn"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
)
PLACES = {part: place for place, layer in enumerate(LAYERS) for part in layer}


def part_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "corral":
            found |= {alias.name for alias in node.names if alias.name in PLACES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corral."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("corral.")}
    return found


@pytest.mark.parametrize("part", sorted(PLACES))
def test_a_part_imports_only_what_stands_before_it(part):
    files = [path for path in PACKAGE.rglob("*.py") if part_of(path) == part]
    assert files
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in files
        for other in imported(path) - {part}
        if PLACES[other] >= PLACES[part]
    }
    assert wrong == set()


def test_every_part_has_its_layer():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == set(PLACES)
