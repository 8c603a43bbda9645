"""Makes a table of a paper again: which rows are asked for, and each of them written as soon as it is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corral.data import loaded_once
from corral.errors import UsageError
from corral.files import check_writable
from corral.papers.assemble import key_of
from corral.papers.definition import Part, Row, ScaleName, Table, load_table
from corral.papers.jobs import jobs_of
from corral.papers.kept import without_refused
from corral.papers.measure import Setup, measured_row
from corral.papers.old import taken_over
from corral.papers.plan import RunPlan
from corral.papers.show import shown_again
from corral.papers.side_by_side import make_side_by_side
from corral.papers.store import ROWS, changing, read_store
from corral.progress import Progress
from corral.report.words import listed


def reproduce(
    table: str,
    *,
    scale: str = "smoke",
    runs: str | Path = "runs/reproduce",
    results: str | Path = "results",
    rows: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
    changed: Mapping[str, Any] | None = None,
    workers: int = 1,
    data_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Make a table of a paper again.

    Every run is trained, or taken up where an earlier call stopped; evaluations that exist of the same weights, images
    and attack settings are not repeated. Tables share runs of equal recipe, data, settings and seed. Rows and parts
    that are not asked for stay as an earlier call wrote them, on whatever machine, while they are of the data set and
    of the columns as they are now; those of another setting or recipe than today's, or of other weights than lie here,
    are marked as of an earlier setting. Several processes may write to one folder of results at once.

    Args:
        table: one of `shipped_tables`.
        scale: "smoke" (minutes, checks the path), "small" (real data, hours of a CPU), "short" (what fits one GPU,
            where a table has it) or "full" (the paper's own setting).
        runs: where the runs lie.
        results: where the CSV files of all tables, and `tables/TABLE-SCALE/` with `table.json`, `table.md` and
            `page.html`, are written.
        rows: make only these, by the paper's names.
        data: make only the parts on these of our data sets.
        changed: recipe keys on top of the scale's setting, None for a key's default; "RECIPE:key" for the stages of one
            recipe alone. The table is written to a folder of its own, and says so.
        workers: processes that make runs side by side; with 1 this process makes all. They share out this process's
            CPU threads and, where `device` names no one of them, the GPUs. On a CPU the numbers are those of one
            process with as many threads as each has.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: show progress on stderr.

    Returns:
        The page.

    Raises:
        UsageError: an unknown table, scale, row, data set or recipe key, or no worker.
        CorralError: what training and evaluation raise, or a worker was ended from outside.
    """
    if workers < 1:
        raise UsageError(f"workers must be 1 or more, found {workers}")
    where: dict[str, Any] = {"data_root": data_root, "device": device, "progress": progress}
    setup = set_up(table, scale=scale, runs=runs, rows=rows, data=data, changed=changed, **where)
    results = Path(results)
    check_writable(results / ROWS)
    taken_over(results)
    read_store(results)  # damaged files are found now, not after a training
    with loaded_once():
        if workers == 1:
            for part, row in setup.asked:
                _make(setup, results, part, row)
        else:
            _make_by(workers, setup, results)
    page = shown_again(setup.table, setup.scale, setup.changed, results)
    Progress("", 0, "", enabled=progress).say(f"{table} at scale {scale}: {page}")
    return page


def set_up(
    table: str,
    *,
    scale: str,
    runs: str | Path,
    rows: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
    changed: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Setup:
    """What `reproduce` is asked for by the same arguments; nothing is read or written but definitions.

    Raises:
        UsageError: an unknown table, scale, row, data set or recipe key.
    """
    definition = load_table(table)
    size = next((name for name in definition.scales if name == scale), None)
    if size is None:
        raise UsageError(f"table {table} has no scale {scale!r}; known: {', '.join(definition.scales)}")
    asked = _asked(definition, size, rows, data)
    _check_changed(definition, changed or {})
    return Setup(
        definition, size, asked, RunPlan(Path(runs) / scale, changed), changed or {}, data_root, device, progress
    )


def _make(setup: Setup, results: Path, part: Part, row: Row) -> None:
    """Measure a row, and write the files and the table as far as it is."""
    table, scale, changed = setup.table, setup.scale, setup.changed
    found = measured_row(setup, key_of(table, scale, changed, part, row), part, row)
    with changing(results) as store:
        without_refused(setup, store)
        store.add(found)
    shown_again(table, scale, changed, results)


def _make_by(workers: int, setup: Setup, results: Path) -> None:
    """Make the rows by several processes; each is written when its runs and the rows before it are made."""
    made: set[str] = set()
    left = [
        (part, row, {setup.plan.planned(part, row, seed)[1].path.name for seed in part.seeds})
        for part, row in setup.asked
    ]

    def write(name: str) -> None:
        made.add(name)
        while left and left[0][2] <= made:
            part, row, _ = left.pop(0)
            _make(replace(setup, progress=False), results, part, row)

    make_side_by_side(setup, jobs_of(setup), workers, made=write)


def _asked(
    table: Table, scale: ScaleName, rows: Sequence[str] | None, data: Sequence[str] | None
) -> list[tuple[Part, Row]]:
    """The rows to make, part by part; an unknown row or data set is a `UsageError`."""
    parts = table.scales[scale]
    for kind, wanted, names, where in (
        ("row", rows, [row.name for row in table.rows], ""),
        ("data set", data, list(dict.fromkeys(part.data for part in parts)), f" at scale {scale}"),
    ):
        if unknown := sorted(set(wanted or ()) - set(names)):
            raise UsageError(f"table {table.name} has no {kind} {unknown[0]!r}{where}; known: {listed(names)}")
    return [
        (part, row)
        for part in parts
        for row in table.rows
        if (data is None or part.data in data) and (rows is None or row.name in rows) and row.has(part.data)
    ]


def _check_changed(table: Table, changed: Mapping[str, Any]) -> None:
    """Refuse a change of a recipe that no row is made by, or of a key that the table sets for each run."""
    recipes = {recipe for row in table.rows for recipe in (row.recipe, *(stage.recipe for stage in row.stages))}
    for key in changed:
        only, colon, rest = key.partition(":")
        if colon and only not in recipes:
            raise UsageError(
                f"--set {key}: no row of {table.name} is made by {only!r}; known: {listed(sorted(recipes))}"
            )
        if (rest if colon else key).split(".")[-1] in ("seed", "start", "labeller"):
            raise UsageError(f"--set {key}: the table gives every run its own; leave it out")
