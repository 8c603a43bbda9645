"""A table's page: published, ours under the published protocol, ours under a sound attack, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from corral.analysis.registry import described
from corral.files import write_atomically
from corral.papers.against import against
from corral.papers.definition import CLEAN, Column, Table, Unit, load_setting
from corral.papers.drawings import drawn
from corral.papers.figures import AccuracyLine, accuracies_figure
from corral.papers.result import Measured, Result, ResultPart, ResultRow, worst_case
from corral.papers.sections import NONE, Section, sections
from corral.papers.times import training_cells, training_headings, training_words
from corral.report.runs.figures import Span, spans_figure
from corral.report.template import filled
from corral.report.words import eps_words, listed, sentence, slug

# Factor and decimals of a unit's numbers: ours, which accuracies are fractions of, and the published ones.
SHOWN: dict[Unit, tuple[float, int, int]] = {
    "%": (100.0, 1, 2),
    "l2": (1.0, 3, 3),
    "cosine": (1.0, 3, 3),
    "width": (1.0, 3, 3),
    "clusters": (1.0, 0, 0),
}
# At this many radii accuracies become curves.
FEWEST_RADII = 3


@dataclass(frozen=True)
class Group:
    """Columns at one eps, or of one analysis: each has ours, after what was published if any row has it.

    Where there is an attack, the last is the worst case of all of ours: “sound” if AutoAttack's are among them for
    every row, “worst PGD” if not.

    Attributes:
        title: over the columns.
        columns: the definitions.
        published: those of which a row has a published number.
        factor: the eps as a multiple of the training eps.
        sound: whether there is an attack at all.
        worst: what the worst case is called.
    """

    title: str
    columns: tuple[Column, ...]
    published: frozenset[str]
    factor: str
    sound: bool
    worst: str = "sound"

    def headings(self) -> list[tuple[str, str]]:
        """Heading and kind ("published", "ours", "sound") of each column as shown."""
        found = []
        for column in self.columns:
            name = column.name if column.unit == "%" else f"{column.name} ({column.unit})"
            if column.name in self.published:
                found.append((f"{name}, published", "published"))
            found.append((f"{name}, ours", "ours"))
        return [*found, (f"{self.worst}, ours", "sound")] if self.sound else found


def write_page(table: Table, result: Result, path: Path) -> Path:
    """Write the page, in one step; returns its path."""
    write_atomically(path, render(table, result).encode())
    return path


def render(table: Table, result: Result) -> str:
    """The page as text; equal results give equal bytes."""
    return filled(
        "corral.papers",
        "page.html",
        table=table,
        result=result,
        groups=lambda part: groups(table, part),
        cells=cells,
        training_headings=training_headings,
        training_cells=training_cells,
        training_words=training_words,
        made=made,
        command=command,
        sentence=sentence,
        threat=threat,
        reading=reading,
        sound_words=lambda part: sound_words(table, part),
        compared=lambda part: compared(table, part),
        drawn=drawn,
        overview=lambda part: overview(table, part),
        setting=lambda part: setting_words(table, result, part),
    )


def groups(table: Table, part: ResultPart) -> tuple[Group, ...]:
    """The columns: those without attack, then by eps, then by analysis."""
    published = frozenset(name for row in part.rows for name in row.published)
    clean = tuple(c for c in table.columns if c.attack == CLEAN)
    found = [Group("No attack", clean, published, "1", sound=False)]
    for factor in dict.fromkeys(c.eps for c in table.columns if c.attacked):
        columns = tuple(c for c in table.columns if c.eps == factor and c.attacked)
        title = "At the training eps" if factor == 1 else f"At {factor:g} × the training eps"
        found.append(Group(title, columns, published, f"{factor:g}", sound=True, worst=part.worst(f"{factor:g}")))
    for name in dict.fromkeys(c.analysis for c in table.columns if c.analysis):
        columns = tuple(c for c in table.columns if c.analysis == name)
        found.append(Group(described(name).short, columns, published, "1", sound=False))
    return tuple(group for group in found if group.columns)


def cells(group: Group, row: ResultRow) -> list[str]:
    """The row's cells of a group, one a heading."""
    found = []
    for column in group.columns:
        if column.name in group.published:
            published = row.published.get(column.name)
            found.append(NONE if published is None else f"{published:.{SHOWN[column.unit][2]}f}")
        found.append(spread(row.protocol.get(column.name), column.unit))
    return [*found, spread(row.sound.get(group.factor))] if group.sound else found


def spread(measured: Measured | None, unit: Unit = "%") -> str:
    """Mean and sample standard deviation over seeds, in percent or in the unit."""
    if measured is None:
        return NONE
    factor, digits, _ = SHOWN[unit]
    mean = f"{factor * measured.mean:.{digits}f}"
    return mean if measured.deviation is None else f"{mean} ± {factor * measured.deviation:.{digits}f}"


def threat(part: ResultPart) -> str:
    """Where the runs of a part were attacked."""
    found = dict.fromkeys(f"{row.norm} eps {eps_words(row.eps)}" for row in part.rows)
    return " or ".join(found)


def reading(part: ResultPart) -> str:
    """What stands beside what."""
    images = f"all {part.n:,}" if part.n == part.n_test else f"{part.n:,} of {part.n_test:,}"
    seeds = max((len(row.seeds) for row in part.rows), default=0)
    same = part.data == part.beside or not any(row.published for row in part.rows)
    beside = "" if same else f" The published numbers are of {part.beside}: compare orders and gaps, not values."
    return f"Ours on {part.data}, {images} test images, {seeds} seed{'' if seeds == 1 else 's'}.{beside}"


def compared(table: Table, part: ResultPart) -> list[Section]:
    """What stands below a part's table: the rows against one of them, then their analyses."""
    paired = against(table, part)
    return [*([] if paired is None else [paired]), *sections(part)]


def sound_words(table: Table, part: ResultPart) -> list[str]:
    """What the sound attack is, where the table has any; where rows or radii differ in it, of which."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    if not any(group.sound for group in groups(table, part)):
        return []
    for row in part.rows:
        radii: dict[str, list[str]] = {}
        for factor, measured in row.sound.items():
            radii.setdefault(measured.attack, []).append(factor)
        for attack, factors in radii.items():
            found.setdefault((attack, tuple(factors) if len(radii) > 1 else ()), []).append(row.name)
    if len(found) == 1:
        return [f"{sentence(worst_case(attack))}: {attack}." for attack, _ in found]
    return [
        f"{sentence(worst_case(attack))}{_at(factors)}, for {listed(names)}: {attack}."
        for (attack, factors), names in found.items()
    ]


def _at(factors: Sequence[str]) -> str:
    """Multiples of the training radius in words; none of none."""
    words = ["the training eps" if factor == "1" else f"{factor} × the training eps" for factor in factors]
    return f" at {listed(words)}" if words else ""


def command(result: Result) -> str:
    """What makes the table."""
    changed = [f"--set {key}={value}" for key, value in result.changed.items()]
    return " ".join([f"corral reproduce {result.table} --scale {result.scale}", *changed])


def made(result: Result) -> str:
    """What the rows were made with, and when."""
    rows = [row for part in result.parts for row in part.rows]
    found = dict.fromkeys(
        f"corral {e.corral} with torch {e.torch} on {e.device}, {e.threads} thread{'' if e.threads == 1 else 's'}"
        for row in rows
        for e in row.environments or (row.environment,)
    )
    when = sorted(row.created for row in rows)
    dates = when[0] if when[0] == when[-1] else f"{when[0]} to {when[-1]}"
    return f"Made by {'; '.join(found)}, {dates}."


def overview(table: Table, part: ResultPart) -> tuple[str, Markup] | None:
    """What the table's accuracies look like, with its caption: a line a row at one attacked eps, curves at several."""
    attacked = [group for group in groups(table, part) if group.sound]
    name = f"overview-{slug(part.data)}-{slug(part.beside)}"
    if len(attacked) == 1:
        names = [column.name for column in table.columns if column.attack == CLEAN or column.attacked]
        spans = [
            Span(
                row.shown.removeprefix("ours: "),
                (
                    *(None if row.protocol.get(name) is None else row.protocol[name].mean for name in names),
                    row.sound[attacked[0].factor].mean,
                ),
            )
            for row in part.rows
        ]
        words = f"Accuracy of each row on {part.data}: without attack, under the paper's protocol, {attacked[0].worst}"
        drawn = spans_figure(spans, [*names, attacked[0].worst], chance=1 / part.classes, name=name, description=words)
        caption = (
            f"Ours, means over seeds. The gap from a protocol's mark to “{attacked[0].worst}” is what that protocol "
            "does not see."
        )
        return caption, Markup(drawn)
    if len(attacked) >= FEWEST_RADII:
        lines = [_against_eps(row, attacked) for row in part.rows]
        words = f"Accuracy of each row on {part.data} against eps, under the paper's protocol and sound"
        drawn = accuracies_figure(lines, norm=part.rows[0].norm, name=name, description=words)
        caption = "Ours, means over seeds: under the paper's protocol (dashed) and the worst case per image (full)."
        return caption, Markup(drawn)
    return None


def _against_eps(row: ResultRow, attacked: Sequence[Group]) -> AccuracyLine:
    """A row's accuracies by ascending eps, of each group's first column that was measured and of its worst case."""
    points = []
    for group in sorted(attacked, key=lambda group: float(group.factor)):
        measured = [row.protocol[column.name].mean for column in group.columns if column.name in row.protocol]
        if measured:
            points.append((row.eps * float(group.factor), measured[0], row.sound[group.factor].mean))
    eps, protocol, sound = zip(*points, strict=True)
    return AccuracyLine(row.shown.removeprefix("ours: "), eps, protocol, sound)


def setting_words(table: Table, result: Result, part: ResultPart) -> str:
    """What the scale changed of the recipes for a part."""
    parts = next(parts for scale, parts in table.scales.items() if scale == result.scale)
    found = next(p for p in parts if (p.data, p.beside) == (part.data, part.beside))
    why = load_setting(found.setting).why.rstrip(".")
    changed = "".join(f"; {key} = {value or 'its default'}" for key, value in result.changed.items())
    return why + (f"{changed}, set by the caller: this is not the scale's own setting." if changed else ".")
