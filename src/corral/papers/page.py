"""What the page of a table says, as text: published, ours under the published protocol, ours under a sound attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.analysis.registry import described
from corral.papers.against import against
from corral.papers.definition import CLEAN, Column, Table, Unit, load_setting
from corral.papers.result import Measured, Result, ResultPart, ResultRow, worst_case
from corral.papers.times import training_cells, training_headings, training_words
from corral.report.table.page import ColumnGroup, Overview, PartTable, TablePage
from corral.report.table.sections import NONE, analysis_sections
from corral.report.words import counted, eps_words, listed, sentence

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

    Where there is an attack, so that it is `sound`, the last is the worst case of all of ours: “sound” if AutoAttack's
    are among them for every row, “worst PGD” if not. `published` are the columns of which a row has a published
    number, `factor` is the eps as a multiple of the training eps.
    """

    title: str
    columns: tuple[Column, ...]
    published: frozenset[str]
    factor: str
    sound: bool
    worst: str = "sound"

    def headings(self, elsewhere: str = "") -> tuple[tuple[str, str], ...]:
        """Heading and kind ("published", "ours", "sound") of each column as shown.

        `elsewhere`: the data set of published numbers, where it is not ours.
        """
        of = f" on {elsewhere}" if elsewhere else ""
        found = []
        for column in self.columns:
            name = column.name if column.unit == "%" else f"{column.name} ({column.unit})"
            if column.name in self.published:
                found.append((f"{name}, published{of}", "published"))
            found.append((f"{name}, ours", "ours"))
        return (*found, (f"{self.worst}, ours", "sound")) if self.sound else tuple(found)


def table_page(table: Table, result: Result) -> TablePage:
    """Everything that the page of a result says."""
    return TablePage(
        name=table.name,
        scale=result.scale,
        title=table.title,
        source=table.source,
        note=table.note,
        command=_command(result),
        parts=tuple(_part(table, result, part) for part in result.parts),
        made=_made(result),
        estimate=table.estimate,
    )


def _part(table: Table, result: Result, part: ResultPart) -> PartTable:
    found = groups(table, part)
    cells = [[cell for group in found for cell in _cells(group, row)] for row in part.rows]
    compared = against(table, part)
    threats = dict.fromkeys(f"{row.norm} eps {eps_words(row.eps)}" for row in part.rows)
    return PartTable(
        data=part.data,
        beside=part.beside,
        threat=" or ".join(threats),
        reading=f"{_reading(part)} {sentence(_setting(table, result, part))}",
        groups=(
            *(
                ColumnGroup(group.title, group.headings("" if part.beside == part.data else part.beside))
                for group in found
            ),
            ColumnGroup("Training", tuple(training_headings(part))),
        ),
        rows=tuple((row.shown, *line, *training_cells(part, row)) for row, line in zip(part.rows, cells, strict=True)),
        meanings=(*sound_words(table, part), *training_words(part)),
        remarks=tuple(f"{row.name}: {row.remark}" for row in part.rows if row.remark),
        overview=_overview(table, part),
        sections=(
            *([] if compared is None else [compared]),
            *analysis_sections({row.shown: row.analyses for row in part.rows}),
        ),
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


def _cells(group: Group, row: ResultRow) -> list[str]:
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


def _reading(part: ResultPart) -> str:
    """What stands beside what."""
    images = f"all {part.n:,}" if part.n == part.n_test else f"{part.n:,} of {part.n_test:,}"
    seeds = max((len(row.seeds) for row in part.rows), default=0)
    same = part.data == part.beside or not any(row.published for row in part.rows)
    beside = "" if same else f" The published numbers are of {part.beside}: compare orders and gaps, not values."
    return f"Ours on {part.data}, {images} test images, {counted(seeds, 'seed')}.{beside}"


def _setting(table: Table, result: Result, part: ResultPart) -> str:
    """What the scale changed of the recipes for a part."""
    parts = next(parts for scale, parts in table.scales.items() if scale == result.scale)
    found = next(p for p in parts if (p.data, p.beside) == (part.data, part.beside))
    why = load_setting(found.setting).why.rstrip(".")
    changed = "".join(f"; {key} = {value or 'its default'}" for key, value in result.changed.items())
    return why + (f"{changed}, set by the caller: this is not the scale's own setting." if changed else ".")


def sound_words(table: Table, part: ResultPart) -> list[str]:
    """What the sound attack is, where the table has any; where rows or radii differ in it, of which."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    if not any(column.attacked for column in table.columns):
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


def _command(result: Result) -> str:
    """What makes the table."""
    changed = [f"--set {key}={value}" for key, value in result.changed.items()]
    return " ".join([f"corral reproduce {result.table} --scale {result.scale}", *changed])


def _made(result: Result) -> str:
    """What the rows were made with, and when."""
    rows = [row for part in result.parts for row in part.rows]
    found = dict.fromkeys(
        f"corral {e.corral} with torch {e.torch} on {e.device}, {counted(e.threads, 'thread')}"
        for row in rows
        for e in row.environments or (row.environment,)
    )
    when = sorted(row.created for row in rows)
    dates = when[0] if when[0] == when[-1] else f"{when[0]} to {when[-1]}"
    return f"Made by {'; '.join(found)}, {dates}."


def _overview(table: Table, part: ResultPart) -> Overview | None:
    """The accuracies as a figure: a line a row at one attacked eps, curves at several; None for others."""
    attacked = [group for group in groups(table, part) if group.sound]
    labels = [row.shown.removeprefix("ours: ") for row in part.rows]
    if len(attacked) == 1:
        names = [column.name for column in table.columns if column.attack == CLEAN or column.attacked]
        worst, factor = attacked[0].worst, attacked[0].factor
        marks = [(*_means(row.protocol, names), row.sound[factor].mean) for row in part.rows]
        return Overview(
            caption=f"Ours, means over seeds. The gap from a protocol's mark to “{worst}” is what that protocol does "
            "not see.",
            description=f"Accuracy of each row on {part.data}: without attack, under the paper's protocol, {worst}",
            rows=tuple(zip(labels, marks, strict=True)),
            titles=(*names, worst),
            chance=1 / part.classes,
        )
    if len(attacked) >= FEWEST_RADII:
        return Overview(
            caption="Ours, means over seeds: under the paper's protocol (dashed) and the worst case per image (full).",
            description=f"Accuracy of each row on {part.data} against eps, under the paper's protocol and sound",
            rows=tuple((label, _by_eps(row, attacked)) for label, row in zip(labels, part.rows, strict=True)),
            norm=part.rows[0].norm,
        )
    return None


def _means(measured: Mapping[str, Measured], names: Sequence[str]) -> list[float | None]:
    return [None if name not in measured else measured[name].mean for name in names]


def _by_eps(row: ResultRow, attacked: Sequence[Group]) -> tuple[tuple[float, ...], ...]:
    """By ascending eps, a row's radii, accuracies in each group's first measured column, and worst cases."""
    points = []
    for group in sorted(attacked, key=lambda group: float(group.factor)):
        known = [row.protocol[column.name].mean for column in group.columns if column.name in row.protocol]
        if known:
            points.append((row.eps * float(group.factor), known[0], row.sound[group.factor].mean))
    return tuple(zip(*points, strict=True))
