"""Compare recipes on one data set over several seeds, at equal cost, and print the table of README.

usage: python benchmarks/compare.py --data mnist --recipes at clustr corral --seeds 0 1 2 --n 1000 --out runs/mnist
           [--results results/mnist] [--set key=value ...]

Every run is trained (or taken up where it stopped), then evaluated by the default attacks on the same test images.
Records are copied to --results. Rows are mean ± sample standard deviation over the seeds, in percent.
"""

import argparse
import shutil
import statistics
import tomllib
from pathlib import Path
from typing import Any

import torch

from corral.evaluation import Record, evaluate, read_record
from corral.evaluation.evaluate import fingerprint
from corral.training import RunFolder, load_model, train

COLUMNS = {"pgd_published": "PGD as published", "pgd_log": "PGD-20×5, log space", "worst_case": "worst of all attacks"}


def measured(folder: RunFolder, n: int | None) -> Record:
    """The run's record: the one on disk if it is of this model and this n, else a fresh evaluation."""
    path = folder.records / "evaluation.json"
    if path.is_file():
        record = read_record(path)
        model, _, _ = load_model(folder.path)
        if record.model_fingerprint == fingerprint(model) and record.n == (n or record.n_test):
            return record
    return evaluate(folder.path, n=n)


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation of fractions, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def setting(text: str) -> tuple[str, Any]:
    """key=value with a TOML value."""
    key, _, value = text.partition("=")
    return key, tomllib.loads(f"value = {value}")["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    arguments = parser.parse_args()
    overrides = dict(setting(text) for text in arguments.settings)
    rows: dict[str, list[Record]] = {}
    for seed in arguments.seeds:
        for recipe in arguments.recipes:
            folder = RunFolder(arguments.out / f"{recipe}-{seed}")
            train(
                recipe,
                data=arguments.data,
                out=folder.path,
                resume=folder.recipe.is_file(),
                **{**overrides, "training.seed": seed},
            )
            rows.setdefault(recipe, []).append(measured(folder, arguments.n))
            if arguments.results:
                arguments.results.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder.records / "evaluation.json", arguments.results / f"{recipe}-{seed}.json")
    first = next(iter(rows.values()))[0]
    print(
        f"\n{arguments.data}, {first.norm} eps {first.eps:.4g}, n = {first.n} of {first.n_test} test images, ", end=""
    )
    print(f"{len(arguments.seeds)} seeds, {first.environment.device}, {torch.get_num_threads()} thread(s) here\n")
    print(f"| recipe | clean | {' | '.join(COLUMNS.values())} | training seconds |")
    print(f"|---|---|{'---|' * len(COLUMNS)}---|")
    for recipe, records in rows.items():
        cells = [spread([record.clean for record in records])]
        for name in COLUMNS:
            found = [a.accuracy for record in records for a in record.attacks if a.name == name]
            cells.append(spread(found) if len(found) == len(records) else "–")
        cells.append(f"{statistics.mean(record.train_seconds for record in records):.0f}")
        print(f"| {recipe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
