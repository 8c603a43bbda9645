"""The demo: the main job on embedded data, small enough for two minutes on two cores."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from corral.devices import cores
from corral.errors import UsageError
from corral.evaluation import Record, evaluate
from corral.evaluation.records import as_percent
from corral.progress import Progress, duration
from corral.report import report
from corral.training import RunFolder, train

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
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: exists and is not a folder; choose another --out")
    count = min(workers or cores(), len(RECIPES))
    records: dict[str, Record] = {}
    # Spawned, not forked: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        Progress("demo", len(RECIPES), "classifiers", enabled=progress) as bar,
        ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        bar.say(f"training and attacking {len(RECIPES)} classifiers in {count} processes")
        # The costliest first, so that the last worker does not wait for it.
        jobs = {pool.submit(_train_and_evaluate, recipe, out / recipe, seed): recipe for recipe in reversed(RECIPES)}
        for job in as_completed(jobs):
            record = job.result()
            records[jobs[job]] = record
            bar.advance(1)
            found = {attack.name: as_percent(attack.accuracy) for attack in record.attacks}
            bar.say(
                f"{record.recipe}: clean {as_percent(record.clean)}%, published protocol {found['pgd_published']}%, "
                f"all attacks {found['worst_case']}%  (trained {duration(record.train_seconds)}, "
                f"attacked {duration(record.eval_seconds)})"
            )
    page = report([out / recipe for recipe in RECIPES], out=out / "report.html")
    return page, [records[recipe] for recipe in RECIPES]


def _train_and_evaluate(recipe: str, path: Path, seed: int) -> Record:
    """One worker's job: a run, trained or taken up again, and its record."""
    folder = RunFolder(path)
    train(recipe, data="digits", out=path, resume=folder.recipe.is_file(), progress=False, seed=seed)
    return evaluate(path, progress=False)
