"""Compare recipes on one data set over several seeds, at equal cost, and print the table of README.

usage: python benchmarks/compare.py --data mnist --recipes at clustr corral --seeds 0 1 2 --n 1000 --out runs/mnist
           [--protocols quick standard] [--results results/mnist] [--set key=value ...]

Every run is trained (or taken up where it stopped), then evaluated by each protocol on the same test images.
Records are copied to --results. Rows are mean ± sample standard deviation over the seeds, in percent.
"""

import argparse
import shutil
import statistics
import tomllib
from pathlib import Path
from typing import Any

import torch

from corral.data import load
from corral.evaluation import Record, evaluate, read_record
from corral.evaluation.evaluate import record_label
from corral.evaluation.protocols import PROTOCOL_NAMES
from corral.models.fingerprint import fingerprint
from corral.report.collect import collect
from corral.training import RunFolder, load_model, train

COLUMNS = {
    "pgd_published": "PGD as published",
    "pgd_log": "PGD-20×5, log space",
    "autoattack": "AutoAttack",
    "adaptive": "adaptive ensemble",
    "worst_case": "worst of all attacks",
}


def measured(folder: RunFolder, n: int | None, protocol: str) -> tuple[Record, Path]:
    """The run's record and its file: the one on disk if it is of this model and this n, else a fresh evaluation."""
    model, _, info = load_model(folder.path)
    n_test = len(load(info.data).test)
    label = record_label(protocol, n=n or n_test, n_test=n_test, eps=info.eps, run_eps=info.eps, seed=0)
    path = folder.records / f"{label}.json"
    if path.is_file():
        record = read_record(path)
        if record.model_fingerprint == fingerprint(model):
            return record, path
    return evaluate(folder.path, n=n, protocol=protocol), path


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
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOL_NAMES, default=["quick"])
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
            for protocol in arguments.protocols:
                record, path = measured(folder, arguments.n, protocol)
                if arguments.results:
                    arguments.results.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, arguments.results / f"{recipe}-{seed}-{path.name}")
            # All protocols as one record, its worst case per image over every attack.
            merged = [piece.record for piece in collect([folder.path]) if piece.record.n == record.n]
            rows.setdefault(recipe, []).append(merged[0])
    first = next(iter(rows.values()))[0]
    print(
        f"\n{arguments.data}, {first.norm} eps {first.eps:.4g}, n = {first.n} of {first.n_test} test images, ", end=""
    )
    print(f"{len(arguments.seeds)} seeds, {first.environment.device}, {torch.get_num_threads()} thread(s) here\n")
    met = {attack.name for records in rows.values() for record in records for attack in record.attacks}
    columns = {name: title for name, title in COLUMNS.items() if name in met}
    print(f"| recipe | clean | {' | '.join(columns.values())} | training seconds |")
    print(f"|---|---|{'---|' * len(columns)}---|")
    for recipe, records in rows.items():
        cells = [spread([record.clean for record in records])]
        for name in columns:
            found = [a.accuracy for record in records for a in record.attacks if a.name == name]
            cells.append(spread(found) if len(found) == len(records) else "–")
        cells.append(f"{statistics.mean(record.train_seconds for record in records):.0f}")
        print(f"| {recipe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
