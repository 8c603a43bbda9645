"""The runs of a table as jobs: what each trains, begins from and is measured for, and which can be made at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.data import loaded_once
from corral.errors import UsageError
from corral.papers.definition import Part, Row
from corral.papers.measure import Setup, is_measured, measured_seed
from corral.training import Recipe, Run, train


@dataclass(frozen=True)
class Job:
    """One run of a table, however many rows share it: no two jobs write into one folder.

    Attributes:
        recipe: what is trained.
        folder: where.
        before: the run that it begins from, which is another job; None where it begins from none.
        measured: the part, row and seed of all that is measured of it; empty where rows only begin from it.
    """

    recipe: Recipe = field(repr=False)
    folder: Run
    before: Run | None = None
    measured: list[tuple[Part, Row, int]] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """The name of its folder, which has the digest of its recipe."""
        return self.folder.path.name

    @property
    def begins_from(self) -> str | None:
        """The name of the job that it begins from."""
        return None if self.before is None else self.before.path.name


def jobs_of(setup: Setup) -> dict[str, Job]:
    """The jobs of the rows that are asked for, by name, each after the one that it begins from."""
    found: dict[str, Job] = {}
    for part, row in setup.asked:
        for seed in part.seeds:
            before = None
            for recipe, folder in setup.plan.needed(part, row, seed):
                job = found.setdefault(folder.path.name, Job(recipe, folder, before))
                before = folder
            job.measured.append((part, row, seed))
    return found


def is_made(setup: Setup, job: Job) -> bool:
    """Whether nothing of a job is left to do; nothing is written.

    Raises:
        CorralError: a damaged file, or no data.
    """
    trained = job.folder.model_file.is_file()
    return trained and all(is_measured(setup, part, row, job.folder) for part, row, _ in job.measured)


def make_job(setup: Setup, job: Job) -> None:
    """Train a run, or take it up, and measure what rows take of it; what was finished before is not repeated.

    Raises:
        UsageError: the run that it begins from is not made.
        CorralError: what training and evaluation raise.
    """
    if job.before is not None and not job.before.model_file.is_file():
        raise UsageError(
            f"{job.name} begins from {job.before.path}, which is not made yet; make that first, by the same command "
            f"with --only {job.begins_from}"
        )
    with loaded_once():
        train(job.recipe, out=job.folder.path, resume="auto", **setup.where)
        for part, row, seed in job.measured:
            measured_seed(setup, part, row, seed)


def waves(setup: Setup, jobs: Mapping[str, Job]) -> dict[str, int]:
    """The wave of each job: those of one wave can be made at once, when those of the waves before are; 0 is made."""
    found: dict[str, int] = {}
    with loaded_once():
        for name, job in jobs.items():
            made = is_made(setup, job)
            found[name] = 0 if made else 1 + (0 if job.begins_from is None else found[job.begins_from])
    return found
