"""The demo: the main job on embedded data, small enough for two minutes on two cores."""

from concurrent.futures import as_completed
from pathlib import Path

import torch

from corral.devices import cores
from corral.errors import UsageError
from corral.evaluation import Record, evaluate
from corral.files import check_writable
from corral.lock import held
from corral.progress import Progress, duration
from corral.records import as_percent
from corral.report import report
from corral.training import train
from corral.workers import started_whole, worker_pool

RECIPES = ("nominal", "at", "clustr-published", "clustr", "clustr-qtrades-published", "clustr-qtrades", "corral")


def run_demo(
    out: Path, *, seed: int = 0, workers: int | None = None, progress: bool = True
) -> tuple[Path, list[Record]]:
    """Train every recipe of the demo on digits, evaluate all at the same eps, write the page.

    Args:
        out: folder for the runs and report.html; runs of an earlier demo with the same seed are taken up again.
        seed: training seed of all runs.
        workers: processes of one thread each; default one a core. The numbers do not depend on it.
        progress: show progress on stderr.

    Returns:
        The page's path and the records, in the order of `RECIPES`.

    Raises:
        UsageError: `out` exists and is not a folder.
        CorralError: another process makes the demo there, it cannot be written, or a worker was ended from outside.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: exists and is not a folder; choose another --out")
    page = out / "report.html"
    check_writable(page)
    with held(out, "demo"):
        records = _made(out, seed, workers, progress)
        return report([out / recipe for recipe in RECIPES], out=page), [records[recipe] for recipe in RECIPES]


def _made(out: Path, seed: int, workers: int | None, progress: bool) -> dict[str, Record]:
    """The runs' records by recipe, each run made by one of several processes."""
    count = min(workers or cores(), len(RECIPES))
    records: dict[str, Record] = {}
    with Progress("demo", len(RECIPES), "classifiers", enabled=progress) as bar, worker_pool(count, out) as pool:
        bar.say(f"training and attacking {len(RECIPES)} classifiers in {count} processes")
        # The costliest first, so that the last worker does not wait for it.
        with started_whole(pool):
            jobs = {
                pool.submit(_train_and_evaluate, recipe, out / recipe, seed): recipe for recipe in reversed(RECIPES)
            }
        for job in as_completed(jobs):
            record = job.result()
            records[jobs[job]] = record
            bar.advance(1)
            found = {attack.name: as_percent(attack.accuracy) for attack in record.attacks}
            bar.say(
                f"{record.recipe}: clean {as_percent(record.clean)}%, published protocol {found['pgd_published']}%, "
                f"all attacks {found['worst_case']}%  (trained {duration(record.train_seconds or 0)}, "
                f"attacked {duration(record.eval_seconds)})"
            )
    return records


def _train_and_evaluate(recipe: str, path: Path, seed: int) -> Record:
    """One worker's job: a run, trained or taken up again, and its record."""
    torch.set_num_threads(1)
    train(recipe, data="digits", out=path, resume="auto", progress=False, seed=seed)
    return evaluate(path, progress=False)
