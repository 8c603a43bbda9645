"""Whether training in bfloat16 costs accuracy, and what time it saves: the same trainings in it and in float32.

usage: OMP_NUM_THREADS=1 python experiments/precision.py [--cases cifar10:at ...] [--seeds 0 1 2]
           [--results results/precision.csv] [--table]

Clean accuracy and that under the protocol `screening` on 1,000 held-out training images, in float32 for both; CPU
seconds of the training's own work. Rows that the CSV file has are not made again. --table only prints the file's table,
as docs/performance.md has it.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import corral
from corral.training import load_recipe
from corral.training.start import prepare_data
from csv_rows import read_rows, write_rows

ROOT = Path(__file__).resolve().parents[1]
CASES = ("cifar10:at", "cifar10:corral", "mnist:at", "mnist:corral")
PRECISIONS = ("float32", "bfloat16")
HELD_OUT = 1000
COMMON = {
    "training.warm_start.epochs": 0,
    "training.select": "last",
    "training.schedule": "cosine",
    "data.validation": HELD_OUT,
}
# A part of each set and networks that this machine has the time for; the CIFAR-10 network is the arena's.
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "data.train": 6000,
        "data.crop": 4,
        "data.flip": True,
        "model.backbone": "resnet",
        "model.width": 16,
        "model.depth": 10,
        "training.optimiser": "sgd",
        "training.learning_rate": 0.1,
        "training.weight_decay": 5e-4,
        "training.batch_size": 128,
        "training.epochs": 5,
        "method.inner.steps": 3,
        "method.inner.step_ratio": 0.5,
    },
    "mnist": {"data.train": 4000, "training.epochs": 15, "model.width": 16},
}
COLUMNS = ("data", "method", "precision", "seed", "n", "clean", "screening", "seconds", "epochs", "torch", "device")


def row_of(data: str, method: str, precision: str, seed: int) -> dict[str, Any]:
    """One training and its accuracies."""
    overrides = {**COMMON, **SETTINGS[data], "training.precision": precision, "training.seed": seed}
    recipe = load_recipe(method, data=data, overrides=overrides)
    held_out = prepare_data(recipe, root=None)[2]
    assert held_out is not None
    assert held_out.labels is not None
    with tempfile.TemporaryDirectory() as scratch:
        run = corral.train(method, data=data, out=scratch, progress=False, loggers=(), device="cpu", **overrides)
        record = corral.evaluate(
            run.model,
            (held_out.float(), held_out.labels),
            threat=(recipe.threat.norm, recipe.threat.eps),
            protocol="screening",
            progress=False,
            device="cpu",
        )
        seconds = run.info.work_seconds
    assert record.lowest is not None
    return {
        "data": data,
        "method": method,
        "precision": precision,
        "seed": seed,
        "n": record.n,
        "clean": record.clean,
        "screening": record.lowest.accuracy,
        "seconds": f"{seconds:.1f}",
        "epochs": recipe.training.epochs,
        "torch": torch.__version__,
        "device": "cpu",
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Of each case the mean accuracies, the mean and sd of the paired differences, and the times."""
    lines = [
        "| training | seeds | clean, float32 | bfloat16 less float32 | screening, float32 | bfloat16 less float32 | "
        "sd of float32 over seeds | time of float32 over bfloat16's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(f"{row['data']}:{row['method']}" for row in rows):
        held = {(row["precision"], row["seed"]): row for row in rows if f"{row['data']}:{row['method']}" == case}
        seeds = [seed for precision, seed in held if precision == "float32" and ("bfloat16", seed) in held]
        if len(seeds) < 2:
            continue
        cells = [case.replace(":", ", "), str(len(seeds))]
        for name in ("clean", "screening"):
            plain = [100 * float(held["float32", seed][name]) for seed in seeds]
            gaps = [100 * float(held["bfloat16", seed][name]) - of for seed, of in zip(seeds, plain, strict=True)]
            cells += [
                f"{statistics.mean(plain):.1f}",
                f"{round(statistics.mean(gaps), 1) + 0.0:+.1f} ± {statistics.stdev(gaps):.1f}",
            ]
        ratios = [float(held["float32", s]["seconds"]) / float(held["bfloat16", s]["seconds"]) for s in seeds]
        cells += [f"{statistics.stdev(plain):.1f}", f"{statistics.median(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make what the file lacks, write it, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], metavar="DATA:METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "precision.csv")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(given.results)
    made = {(row["data"], row["method"], row["precision"], int(row["seed"])) for row in rows}
    wanted = [
        (*case.split(":"), precision, seed) for case in given.cases for seed in given.seeds for precision in PRECISIONS
    ]
    for one in () if given.table else wanted:
        if one not in made:
            rows.append({name: str(value) for name, value in row_of(*one).items()})
            print(rows[-1], flush=True)
            write_rows(given.results, COLUMNS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
