"""The runs that the arena means: recipe, epochs from the budget of passes, folder, and how long each takes."""

import hashlib
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from corral.errors import UsageError
from corral.papers.lines import RowKey, RowLine, RunLine
from corral.papers.store import Store
from corral.report.words import WORST_CASE, slug
from corral.training import Recipe
from corral.training.recipes.recipe import WeightAveraging

from .definition import Arena, Candidate
from .passes import Cost, cost_of

Stage = Literal["screen", "final"]
STAGES: tuple[Stage, ...] = ("screen", "final")
# The fingerprint of the weights of a run that has none, since its loss or weights were not finite.
DIVERGED = "diverged"
AVERAGING = "training.weight_averaging"


@dataclass(frozen=True)
class Job:
    """One run: what is trained, and what its row in the results is called.

    Attributes:
        task, entry, seed: as in arena.toml.
        candidate: number of the candidate, from 1, in the screening; None in the final.
        recipe: what is trained, epochs from the budget.
        cost: of its method, in passes by training image.
    """

    task: str
    stage: Stage
    entry: str
    candidate: int | None
    seed: int
    recipe: Recipe = field(repr=False)
    cost: Cost

    @property
    def row(self) -> str:
        """The name of its row."""
        return self.entry if self.candidate is None else f"{self.entry} {self.candidate}"

    @property
    def key(self) -> RowKey:
        """Its row in the results' CSV files."""
        return key_of(self.task, self.stage, self.recipe.data.name, self.row)

    @property
    def folder(self) -> str:
        """The name of its run folder, which has the digest of the recipe."""
        digest = hashlib.sha256(self.recipe.identity().encode()).hexdigest()[:8]
        return f"{slug(f'{self.task} {self.stage} {self.row}')}-{self.seed}-{digest}"

    @property
    def epochs(self) -> int:
        """Of the training."""
        return self.recipe.training.epochs

    @property
    def passes(self) -> float:
        """Forward and backward passes of its training, by training image."""
        return self.cost.passes(self.epochs)

    def command(self, runs: Path, results: Path) -> str:
        """The idempotent command that makes it."""
        words = ["python", "-m", "experiments.arena", "run", "--task", self.task, "--stage", self.stage]
        words += ["--entry", self.entry, *([] if self.candidate is None else ["--candidate", str(self.candidate)])]
        return shlex.join([*words, "--seed", str(self.seed), "--runs", str(runs), "--results", str(results)])


def table_name(task: str) -> str:
    """The task's table in the results."""
    return f"arena-{task}"


def key_of(task: str, stage: str, data: str, row: str) -> RowKey:
    """The name of a row in the results' CSV files."""
    return RowKey(table=table_name(task), scale=stage, changed="", data=data, beside="", row=row)


def budget_of(arena: Arena, task: str, stage: Stage) -> float:
    """The passes by training image of a stage: those of the baseline in the epochs that the file gives it."""
    of = arena.of_task(task)
    epochs = of.screen.budget if stage == "screen" else of.budget
    plain = arena.recipe(task, arena.baseline, Candidate(), screen=stage == "screen")
    return cost_of(plain).passes(epochs)


def job_of(arena: Arena, task: str, stage: Stage, entry: str, *, number: int, seed: int) -> Job:
    """A run of an entry with its candidate of a number, from 1.

    Raises:
        UsageError: no such task, entry or candidate, or a budget below one epoch.
    """
    candidates = arena.method[arena.split(task, entry)[0]].candidates
    if not 1 <= number <= len(candidates):
        raise UsageError(f"{entry} has candidates 1 to {len(candidates)}, found {number}")
    return _jobs(arena, task, stage, entry, number, [seed], budget_of(arena, task, stage))[0]


def _jobs(
    arena: Arena, task: str, stage: Stage, entry: str, number: int, seeds: Sequence[int], budget: float
) -> list[Job]:
    """The runs of an entry with a candidate, a seed each."""
    screen, candidate = stage == "screen", arena.method[arena.split(task, entry)[0]].candidates[number - 1]
    cost = cost_of(arena.recipe(task, entry, candidate, screen=screen))
    first = arena.recipe(task, entry, candidate, screen=screen, epochs=cost.epochs(budget))
    trainings = [first.training.model_copy(update={"seed": seed}) for seed in seeds]
    recipes = [first.model_copy(update={"training": training}) for training in trainings]
    shown = number if screen else None
    return [Job(task, stage, entry, shown, seed, of, cost) for seed, of in zip(seeds, recipes, strict=True)]


def screen_jobs(arena: Arena, task: str) -> list[Job]:
    """Every candidate of every method, seed 0."""
    budget = budget_of(arena, task, "screen")
    return [
        _jobs(arena, task, "screen", method, number, [0], budget)[0]
        for method in arena.methods(task)
        for number in range(1, arena.searched + 1)
    ]


def final_jobs(arena: Arena, task: str, chosen: dict[str, int], finalists: Sequence[str]) -> list[Job]:
    """The final's runs of the methods that a candidate was chosen for, seed by seed: a part of them is a comparison."""
    budget, found = budget_of(arena, task, "final"), []
    for entry in arena.entries(task):
        method, _ = arena.split(task, entry)
        if method in chosen:
            seeds = range(arena.finalist_seeds if method in finalists else arena.seeds)
            found += _jobs(arena, task, "final", entry, chosen[method], seeds, budget)
    return sorted(found, key=lambda job: job.seed)


def averaged_twins(arena: Arena, job: Job) -> list[str]:
    """The folders of the final's runs that differ from one by weight averaging alone."""
    if job.stage == "screen" or "+" in job.entry:
        return []
    found = []
    for name, ingredient in arena.ingredient.items():
        entry = f"{job.entry}+{name}"
        if entry in arena.entries(job.task) and set(ingredient.set) == {AVERAGING}:
            averaged = WeightAveraging.model_validate({"decay": ingredient.set[AVERAGING]})
            training = job.recipe.training.model_copy(update={"weight_averaging": averaged})
            found.append(replace(job, entry=entry, recipe=job.recipe.model_copy(update={"training": training})).folder)
    return found


def line_of(store: Store, job: Job) -> RowLine | None:
    """The row of a job in the results, if it is of today's recipe."""
    lines = store.rows.get(job.key, [])
    return next((line for line in lines if line.seed == job.seed and line.run == job.folder), None)


def estimates(arena: Arena, store: Store, task: str, stage: Stage) -> tuple[float, float]:
    """Passes a second of training and minutes of an evaluation: medians of the task's rows, else what the file says."""
    of = arena.of_task(task)
    speeds, minutes = [], []
    for key, lines in store.rows.items():
        if key.table != table_name(task):
            continue
        for line in lines:
            run = store.runs[line.run, line.fingerprint]
            speeds += [passes / run.train_seconds for passes in (passes_of(run),) if passes and run.train_seconds]
            if key.scale == stage:
                attacks = [one for name in line.evaluations.split() for one in store.attacks[name]]
                minutes.append(sum(one.seconds or 0 for one in attacks if one.attack not in SUMS) / 60)
    declared = of.screen.minutes if stage == "screen" else of.attack_minutes
    return (
        statistics.median(speeds) if speeds else of.passes_per_second,
        statistics.median(minutes) if minutes else declared,
    )


# Rows of an evaluation whose seconds are the sum of others'.
SUMS = ("clean", "autoattack", WORST_CASE)


def passes_of(run: RunLine) -> int:
    """Forward and backward passes of a run's training, over all images; 0 where they were not counted."""
    return (run.forwards or 0) + (run.backwards or 0)


def minutes_of(arena: Arena, job: Job, speed: float, attack: float) -> float:
    """How long a job takes on one core."""
    of = arena.of_task(job.task)
    images = of.screen.images if job.stage == "screen" else of.images
    return job.passes * images / speed / 60 + attack
