"""The tables of what corral ships are what the registries hold; a failure shows the table as it should be."""

from pathlib import Path

from corral.analysis import ANALYSES
from corral.data import DATA_SETS, PATH_DATA_SETS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table_of(page: str) -> list[str]:
    """The rows of a page's table, without its heading."""
    return [line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("| `")]


def shipped(loader: object) -> bool:
    """Whether a function is of the package, and no other test's."""
    return getattr(loader, "__module__", "").startswith("corral.")


def test_every_data_set_is_listed() -> None:
    sets = [(name, entry) for name, entry in sorted(DATA_SETS.items()) if shipped(entry.loader)]
    kinds = [(name, entry) for name, entry in sorted(PATH_DATA_SETS.items()) if shipped(entry.loader)]
    rows = [f"| `{name}` | {entry.description} | {entry.shape} | {entry.classes} |" for name, entry in sets]
    rows += [f"| `{name}:PATH` | {entry.description} | | |" for name, entry in kinds]
    assert table_of("extending/data.md") == rows


def test_every_analysis_is_listed() -> None:
    kinds = [(name, kind) for name, kind in sorted(ANALYSES.items()) if shipped(kind.measure)]
    words = {True: "yes", False: ""}
    rows = [
        f"| `{name}` | {kind.title} | {words[kind.page is not None]} | {words[kind.needs_clusters]} |"
        for name, kind in kinds
    ]
    assert table_of("extending/analysis.md") == rows
