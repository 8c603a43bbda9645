"""The demo: the main job on embedded data, small enough for two minutes on two cores."""

from pathlib import Path

from corral.errors import UsageError
from corral.evaluation import Record, evaluate
from corral.report import report
from corral.training import RunFolder, train

RECIPES = ("nominal", "at", "clustr-published", "clustr", "clustr-qtrades-published", "clustr-qtrades", "corral")


def run_demo(out: Path, *, seed: int = 0, progress: bool = True) -> tuple[Path, list[Record]]:
    """Train every recipe of the demo on digits, evaluate all at the same eps, write the page.

    Args:
        out: folder for the runs and report.html; runs of an earlier demo with the same seed are taken up again.
        seed: training seed of all runs.
        progress: show progress on stderr.

    Returns:
        The page's path and the records, in the order of `RECIPES`.

    Raises:
        UsageError: `out` exists and is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: exists and is not a folder; choose another --out")
    records = []
    for recipe in RECIPES:
        folder = RunFolder(out / recipe)
        train(recipe, data="digits", out=folder.path, resume=folder.recipe.is_file(), progress=progress, seed=seed)
        records.append(evaluate(folder.path, progress=progress))
    page = report([out / recipe for recipe in RECIPES], out=out / "report.html")
    return page, records
