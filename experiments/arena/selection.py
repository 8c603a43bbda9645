"""Which candidate every method is given in the final, and which methods get more seeds: by the screening alone."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from corral.documents import Document, read_document
from corral.errors import UsageError
from corral.papers.lines import AttackLine
from corral.papers.store import Store
from corral.report.words import WORST_CASE
from corral.strict import AtLeastOne, Frozen, Share

from .definition import Arena
from .plan import DIVERGED, Job, line_of, screen_jobs, table_name

NAME = "selected.json"


class Tried(Frozen):
    """One candidate as it was screened: shares of the `n` held-out training images, 0 where its training diverged."""

    settings: str
    rate: float
    set: dict[str, Any]
    run: str
    epochs: AtLeastOne
    passes: float
    n: AtLeastOne
    clean: Share
    robust: Share
    diverged: bool = False


class Chosen(Frozen):
    """A method's candidates in the order of the file, and the number of the chosen one, from 1."""

    candidate: AtLeastOne
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """What the chosen one came to."""
        return self.tried[self.candidate - 1]


class Selection(Document):
    """The selection of a task.

    Attributes:
        attacks: of the screening.
        methods: those whose candidates are all screened.
        finalists: the baseline, and the methods of the best chosen candidates.
    """

    format: Literal["corral-arena-selection-1"] = "corral-arena-selection-1"
    task: str
    rule: str
    attacks: tuple[str, ...]
    methods: dict[str, Chosen] = Field(default_factory=dict)
    finalists: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, int]:
        """The chosen candidate of each method."""
        return {name: chosen.candidate for name, chosen in self.methods.items()}


RULE = "most robust held-out training images, then most clean ones, then first in the file"


def selection_of(arena: Arena, task: str, store: Store) -> Selection:
    """The selection that the screening's rows make; methods with a candidate that is not screened are left out."""
    found: dict[str, dict[int, Tried]] = {}
    for job in screen_jobs(arena, task):
        line = line_of(store, job)
        if line is not None:
            lines = [one for name in line.evaluations.split() for one in store.attacks[name]]
            found.setdefault(job.entry, {})[job.candidate or 0] = _tried(arena, job, lines)
    methods = {
        name: Chosen(candidate=_best(tried), tried=tuple(tried[number] for number in sorted(tried)))
        for name, tried in found.items()
        if len(tried) == arena.searched
    }
    ranked = sorted(
        (name for name in methods if name != arena.baseline),
        key=lambda name: (-methods[name].best.robust, -methods[name].best.clean, list(methods).index(name)),
    )
    finalists = (arena.baseline, *ranked[: arena.finalists])
    return Selection(
        task=task,
        rule=RULE,
        attacks=arena.of_task(task).screen.attacks,
        methods=methods,
        finalists=tuple(name for name in finalists if name in methods),
    )


def _tried(arena: Arena, job: Job, lines: list[AttackLine]) -> Tried:
    assert job.candidate is not None
    candidate = arena.method[job.entry].candidates[job.candidate - 1]
    by_attack = {line.attack: line for line in lines}
    clean, robust = by_attack["clean"], by_attack.get(WORST_CASE, lines[-1])
    return Tried(
        settings=candidate.words,
        rate=candidate.rate,
        set=candidate.set,
        run=job.folder,
        epochs=job.epochs,
        passes=job.passes,
        n=clean.n,
        clean=clean.accuracy,
        robust=robust.accuracy,
        diverged=clean.fingerprint == DIVERGED,
    )


def _best(tried: dict[int, Tried]) -> int:
    return min(tried, key=lambda number: (-tried[number].robust, -tried[number].clean, number))


def selected_file(results: Path, task: str) -> Path:
    """Where a task's selection is written."""
    return results / "tables" / table_name(task) / NAME


def read_selection(results: Path, task: str) -> Selection:
    """The selection that was written.

    Raises:
        UsageError: none was.
        CorralError: it is damaged.
    """
    path = selected_file(results, task)
    command = f"python -m experiments.arena select --task {task}"
    if not path.is_file():
        raise UsageError(f"{path}: no selection; screen the candidates, then `{command}`")
    return read_document(path, Selection, kind="selection", command=command)
