"""A task's table and page, and its numbers as JSON, from the rows of the results' CSV files."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from corral.documents import Document, document_text
from corral.papers.lines import AttackLine, RowLine, RunLine
from corral.papers.result import unpacked
from corral.papers.store import Store
from corral.report.table.markdown import as_markdown
from corral.report.table.page import ColumnGroup, Overview, PartTable, TablePage, render
from corral.report.table.sections import NONE, Section
from corral.report.words import WORST_CASE, counted, eps_words
from corral.strict import AtLeastOne, Frozen

from .definition import Arena, load_arena
from .plan import final_jobs, key_of, passes_of, table_name
from .selection import NAME, Selection, selection_of
from .statistics import LEVEL, Difference, paired_difference

MILLION = 1e6
TITLES = {"standard": "AutoAttack"}
EARLIER = "of an earlier setting"


@dataclass(frozen=True)
class Seed:
    """One seed of an entry: its run, and the lines without attack and of the worst case."""

    row: RowLine
    run: RunLine
    clean: AttackLine
    robust: AttackLine


class Against(Frozen):
    """An entry minus another one, shares of the same images, and the ends of the interval of `LEVEL`."""

    other: str
    seeds: AtLeastOne
    robust: tuple[float, float, float]
    clean: tuple[float, float, float]


class EntryNumbers(Frozen):
    """An entry's numbers by seed; `passes` are images forward and images backward in training, together."""

    entry: str
    earlier: bool
    recipe: str
    settings: str
    seeds: tuple[int, ...]
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    epochs: tuple[int | None, ...]
    passes: tuple[int, ...]
    train_seconds: tuple[float, ...]
    work_seconds: tuple[float | None, ...]
    against: tuple[Against, ...] = ()


class ArenaTable(Document):
    """A task's numbers."""

    format: Literal["corral-arena-1"] = "corral-arena-1"
    task: str
    data: str
    norm: str
    eps: float
    protocol: str
    n: AtLeastOne
    n_test: AtLeastOne
    classes: AtLeastOne
    baseline: str
    entries: tuple[EntryNumbers, ...] = ()
    environments: tuple[str, ...] = ()
    made: str = ""
    selection: Selection | None = Field(default=None)


def documents(arena: Arena, task: str, store: Store) -> dict[str, bytes]:
    """What is committed of a task, by file name; nothing of one without a row."""
    chosen = selection_of(arena, task, store)
    found = {} if not chosen.methods else {NAME: document_text(chosen).encode()}
    table = table_of(arena, task, store, chosen)
    if table is None:
        return found
    page = page_of(arena, table)
    return {**found, "table.json": document_text(table).encode(), "table.md": as_markdown(page).encode()}


def page_html(arena: Arena, task: str, store: Store) -> str | None:
    """The page with figures; None of a task without a row of the final."""
    table = table_of(arena, task, store, selection_of(arena, task, store))
    return None if table is None else render(page_of(arena, table))


def made(results: Path, store: Store) -> dict[Path, bytes]:
    """Every file of the arena below a folder of results, as the committed arena.toml means them."""
    arena = load_arena()
    return {
        results / "tables" / table_name(task) / name: content
        for task in arena.task
        if any(key.table == table_name(task) for key in store.rows)
        for name, content in documents(arena, task, store).items()
    }


def table_of(arena: Arena, task: str, store: Store, chosen: Selection) -> ArenaTable | None:
    """The numbers of a task's final; None where it has no row."""
    of = arena.of_task(task)
    meant = {(job.entry, job.seed): job for job in final_jobs(arena, task, chosen.numbers, chosen.finalists)}
    found: dict[str, list[Seed]] = {}
    for entry in arena.entries(task):
        for line in store.rows.get(key_of(task, "final", of.data, entry), []):
            found.setdefault(entry, []).append(_seed(store, line))
    if not found:
        return None
    earlier = {
        entry: any((entry, s.row.seed) not in meant or meant[entry, s.row.seed].folder != s.row.run for s in seeds)
        for entry, seeds in found.items()
    }
    first = next(iter(found.values()))[0]
    every = [seed for seeds in found.values() for seed in seeds]
    return ArenaTable(
        task=task,
        data=of.data,
        norm=first.clean.norm,
        eps=first.clean.eps,
        protocol=of.protocol,
        n=first.clean.n,
        n_test=first.run.n_test,
        classes=first.run.classes,
        baseline=arena.baseline,
        entries=tuple(_numbers(arena, chosen, entry, found, earlier) for entry in found),
        environments=tuple(
            dict.fromkeys(
                f"corral {line.corral} with torch {line.torch} on {line.device}, {counted(line.threads, 'thread')}"
                for line in (seed.clean for seed in every)
            )
        ),
        made=max(seed.clean.created for seed in every),
        selection=chosen if chosen.methods else None,
    )


def _seed(store: Store, line: RowLine) -> Seed:
    lines = [one for name in line.evaluations.split() for one in store.attacks[name]]
    by_attack = {one.attack: one for one in lines}
    robust = by_attack.get(WORST_CASE) or min(lines, key=lambda one: one.robust)
    return Seed(line, store.runs[line.run, line.fingerprint], by_attack["clean"], robust)


def _numbers(
    arena: Arena, chosen: Selection, entry: str, found: Mapping[str, Sequence[Seed]], earlier: Mapping[str, bool]
) -> EntryNumbers:
    seeds = found[entry]
    method, _, ingredient = entry.partition("+")
    best = chosen.methods.get(method)
    # The baseline, the baseline with the same ingredient, and the same method without it.
    others = dict.fromkeys([arena.baseline, *([f"{arena.baseline}+{ingredient}", method] if ingredient else [])])
    comparable = [name for name in others if name != entry and name in found and earlier[name] == earlier[entry]]
    compared = [_against(name, seeds, found[name]) for name in comparable]
    return EntryNumbers(
        entry=entry,
        earlier=earlier[entry],
        recipe=seeds[0].row.recipe,
        settings="" if best is None else best.best.settings,
        seeds=tuple(seed.row.seed for seed in seeds),
        clean=tuple(seed.clean.accuracy for seed in seeds),
        robust=tuple(seed.robust.accuracy for seed in seeds),
        epochs=tuple(seed.run.epochs for seed in seeds),
        passes=tuple(passes_of(seed.run) for seed in seeds),
        train_seconds=tuple(seed.run.train_seconds for seed in seeds),
        work_seconds=tuple(seed.run.work_seconds for seed in seeds),
        against=tuple(one for one in compared if one is not None),
    )


def _against(other: str, ours: Sequence[Seed], theirs: Sequence[Seed]) -> Against | None:
    """The paired differences over the seeds that both have; None where the images of either are not known."""
    pairs = [(one, two) for one in ours for two in theirs if one.row.seed == two.row.seed]
    lines = [line for pair in pairs for seed in pair for line in (seed.clean, seed.robust)]
    if not pairs or not all(line.outcomes for line in lines) or len({line.n for line in lines}) > 1:
        return None

    def difference(name: Literal["clean", "robust"]) -> tuple[float, float, float]:
        first, second = ([unpacked(getattr(pair[at], name).outcomes, lines[0].n) for pair in pairs] for at in (0, 1))
        found = paired_difference(first, second)
        return found.mean, found.low, found.high

    return Against(other=other, seeds=len(pairs), robust=difference("robust"), clean=difference("clean"))


def page_of(arena: Arena, table: ArenaTable) -> TablePage:
    """Everything that a task's page says."""
    task = arena.of_task(table.task)
    attack = TITLES.get(table.protocol, table.protocol)
    images = f"all {table.n:,}" if table.n == table.n_test else f"{table.n:,} of {table.n_test:,}"
    part = PartTable(
        data=table.data,
        beside=table.data,
        threat=f"{table.norm} eps {eps_words(table.eps)}",
        reading=f"{images[0].upper()}{images[1:]} test images, {_seed_words(table)}. Every entry has the epochs that "
        f"cost no more forward and backward passes than {counted(task.budget, 'epoch')} of {table.baseline}.",
        groups=(
            ColumnGroup("Runs", (("seeds", "ours"),)),
            ColumnGroup("No attack", (("clean", "ours"),)),
            ColumnGroup("At the training eps", ((attack, "sound"),)),
            ColumnGroup(
                "Training",
                (
                    ("epochs", "ours"),
                    ("million passes", "ours"),
                    ("seconds", "ours"),
                    ("seconds of work", "ours"),
                    ("settings", "ours"),
                ),
            ),
        ),
        rows=tuple(_row(entry) for entry in table.entries),
        meanings=(
            f"{attack}: the worst case per image of all its attacks.",
            "Million passes are images that went forward and images that went backward through the network in "
            "training, counted by hooks on a short run of the same method.",
            "Seconds of training are of the wall clock, which other programs' load lengthens; seconds of work are CPU "
            "time of the process, on a GPU those between its synchronisations. Validation does not count.",
            "Settings were chosen by screening held-out training images, below.",
        ),
        remarks=tuple(
            f"METHOD+{name}: with {ingredient.title}, settings as for METHOD alone."
            for name, ingredient in arena.ingredient.items()
            if any(entry.entry.endswith(f"+{name}") for entry in table.entries)
        ),
        overview=_overview(table, attack),
        sections=tuple(section for section in (*_comparisons(table, attack), _screening(table)) if section is not None),
    )
    return TablePage(
        name=table_name(table.task),
        scale="final",
        title=f"Arena: {table.task}",
        source="Methods at equal cost, the same search for each, the test set once",
        note="",
        command=f"make arena TASK={table.task}",
        parts=(part,),
        made=f"Made by {'; '.join(table.environments)}, until {table.made}.",
        estimate="`python -m experiments.arena plan --task "
        f"{table.task} --all` gives the minutes of every run on one core.",
    )


def _seed_words(table: ArenaTable) -> str:
    counts = sorted({len(entry.seeds) for entry in table.entries})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counted(counts[-1], 'seed')}"


def _row(entry: EntryNumbers) -> tuple[str, ...]:
    name = f"{entry.entry} ({EARLIER})" if entry.earlier else entry.entry
    epochs = sorted({one for one in entry.epochs if one is not None})
    return (
        name,
        f"{len(entry.seeds)}",
        _spread(entry.clean),
        _spread(entry.robust),
        " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))) if epochs else NONE,
        f"{statistics.mean(entry.passes) / MILLION:.2f}" if all(entry.passes) else NONE,
        f"{statistics.mean(entry.train_seconds):,.0f}",
        NONE if None in entry.work_seconds else f"{statistics.mean(one or 0.0 for one in entry.work_seconds):,.0f}",
        entry.settings or NONE,
    )


def _spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of shares, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _comparisons(table: ArenaTable, attack: str) -> list[Section]:
    """A section for every entry that others are compared with, then one of every ingredient's own effect."""
    found = []
    others = dict.fromkeys(against.other for entry in table.entries for against in entry.against)
    for other in sorted(others, key=lambda name: name != table.baseline):
        rows = tuple(
            (entry.entry, f"{against.seeds}", _interval(against.robust), _interval(against.clean))
            for entry in table.entries
            for against in entry.against
            if against.other == other
        )
        found.append(
            Section(
                title=f"Against {other}",
                text=f"Accuracy less that of {other} on the same images, in points, with its {100 * LEVEL:.0f}% "
                "interval over seeds and images; ▲ and ▼ stand where it is on one side of 0. Of many comparisons of "
                "equals one in twenty is. With one seed the interval is of other images alone.",
                columns=("Entry", "seeds", attack, "clean"),
                rows=rows,
                unit=f"points of accuracy, {table.n:,} images",
            )
        )
    return found


def _interval(numbers: tuple[float, float, float]) -> str:
    mean, low, high = numbers
    found = Difference(mean, low, high, 1)
    mark = ("▲ " if mean > 0 else "▼ ") if found.certain else ""
    return f"{mark}{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _screening(table: ArenaTable) -> Section | None:
    """How the settings were chosen."""
    chosen = table.selection
    if chosen is None:
        return None
    rows = [
        (
            f"{method} {number}{', chosen' if number == one.candidate else ''}",
            tried.settings,
            "diverged" if tried.diverged else f"{100 * tried.clean:.1f}",
            NONE if tried.diverged else f"{100 * tried.robust:.1f}",
            f"{tried.epochs}",
        )
        for method, one in chosen.methods.items()
        for number, tried in enumerate(one.tried, start=1)
    ]
    n = next(iter(chosen.methods.values())).best.n
    return Section(
        title="How settings were chosen",
        text=f"Every method was tried with as many settings, one seed each, on {n:,} training images that no run of "
        f"the screening was trained on, under {' and '.join(chosen.attacks)}. Chosen is what has the {chosen.rule}. "
        f"More seeds have {', '.join(chosen.finalists)}: the baseline and the best by the same rule.",
        columns=("Candidate", "settings", "clean", "robust", "epochs"),
        rows=tuple(rows),
        unit=f"percent of {n:,} held-out training images",
    )


def _overview(table: ArenaTable, attack: str) -> Overview:
    """Clean and robust accuracy of every entry as marks on a line."""
    return Overview(
        caption="Means over seeds.",
        description=f"Clean accuracy and accuracy under {attack} of each entry on {table.data}",
        rows=tuple(
            (entry.entry, (statistics.mean(entry.clean), statistics.mean(entry.robust))) for entry in table.entries
        ),
        titles=("clean", attack),
        chance=1 / table.classes,
    )
