"""A table's page: published, ours under the published protocol, ours under a sound attack, side by side."""

from dataclasses import dataclass
from pathlib import Path

from corral.files import write_atomically
from corral.report.template import filled
from corral.report.words import eps_words
from corral.reproduce.definition import CLEAN, Table
from corral.reproduce.result import Measured, Result, ResultPart, ResultRow

NONE = "–"


@dataclass(frozen=True)
class Group:
    """Columns at one eps: each has what was published and ours; the last is ours under a sound attack."""

    title: str
    columns: tuple[str, ...]
    factor: str
    sound: bool


def write_page(table: Table, result: Result, path: Path) -> Path:
    """Write the page, in one step; returns its path."""
    write_atomically(path, render(table, result).encode())
    return path


def render(table: Table, result: Result) -> str:
    """The page as text; equal results give equal bytes."""
    return filled(
        "corral.reproduce",
        "page.html",
        table=table,
        result=result,
        groups=groups(table),
        cells=cells,
        threat=threat,
        reading=reading,
        sound_words=sound_words,
    )


def groups(table: Table) -> tuple[Group, ...]:
    """The columns by eps, those without attack first."""
    found = [Group("No attack", tuple(c.name for c in table.columns if c.attack == CLEAN), "1", sound=False)]
    for factor in dict.fromkeys(c.eps for c in table.columns if c.attack != CLEAN):
        names = tuple(c.name for c in table.columns if c.eps == factor and c.attack != CLEAN)
        title = "At the training eps" if factor == 1 else f"At {factor:g} × the training eps"
        found.append(Group(title, names, f"{factor:g}", sound=True))
    return tuple(group for group in found if group.columns)


def cells(group: Group, row: ResultRow) -> list[str]:
    """The row's cells of a group."""
    found = []
    for name in group.columns:
        published = row.published.get(name)
        found += [NONE if published is None else f"{published:.2f}", spread(row.protocol.get(name))]
    return [*found, spread(row.sound.get(group.factor))] if group.sound else found


def spread(measured: Measured | None) -> str:
    """Mean and sample standard deviation over seeds, in percent."""
    if measured is None:
        return NONE
    mean = f"{100 * measured.mean:.1f}"
    return mean if measured.deviation is None else f"{mean} ± {100 * measured.deviation:.1f}"


def threat(part: ResultPart) -> str:
    """Where the runs of a part were attacked."""
    found = dict.fromkeys(f"{row.norm} eps {eps_words(row.eps)}" for row in part.rows)
    return " or ".join(found)


def reading(part: ResultPart) -> str:
    """What stands beside what."""
    images = f"all {part.n:,}" if part.n == part.n_test else f"{part.n:,} of {part.n_test:,}"
    seeds = max((len(row.seeds) for row in part.rows), default=0)
    same = part.data == part.beside
    beside = "" if same else f" The published numbers are of {part.beside}: compare orders and gaps, not values."
    return f"Ours on {part.data}, {images} test images, {seeds} seed{'' if seeds == 1 else 's'}.{beside}"


def sound_words(part: ResultPart) -> list[str]:
    """What the sound attack is, where rows differ in it each its own."""
    return list(dict.fromkeys(measured.attack for row in part.rows for measured in row.sound.values()))
