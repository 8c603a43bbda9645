"""How far cheap mixes of Auto-PGD, and the protocol `screening`, are from AutoAttack on the same images.

usage: OMP_NUM_THREADS=1 python experiments/screening.py [--models "digits at" ...] [--mixes screening ...]
           [--results results/screening.csv] [--table]

Both count images of which no attack in turn changes the class; every mix's backward passes are about a tenth of the
ensemble's. Rows that the CSV file has are not made again. --table only prints the file's table, as docs/attacks.md has
it. Models are those of benchmarks/models.py: checkpoints of this repository, logistic regression, and two that are
trained first (minutes).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from corral.attacks.attack import Attack  # noqa: E402
from corral.attacks.attacked_model import AttackedModel  # noqa: E402
from corral.attacks.autoattack import standard_attacks  # noqa: E402
from corral.attacks.engine import Attacked, cpu_batch, run_attacks  # noqa: E402
from corral.attacks.registry import ATTACKS  # noqa: E402
from corral.attacks.threat import Threat  # noqa: E402
from csv_rows import read_rows, write_rows  # noqa: E402
from models import MNIST, SUBJECTS, Subject  # noqa: E402

MODELS = {
    "digits nominal": Subject("digits", "nominal", 0.1, "digits-nominal"),
    "digits at": SUBJECTS["digits at"],
    "digits corral": SUBJECTS["digits corral"],
    "digits clustr": Subject("digits", "clustr", 0.1, "digits-clustr"),
    "digits certified": Subject("digits", "certified", 0.5, "digits-certified", norm="L2"),
    "digits at, L2": replace(SUBJECTS["digits at"], eps=0.6, norm="L2"),
    "linear": SUBJECTS["linear"],
    "mnist at": SUBJECTS["mnist at"],
    "mnist corral": SUBJECTS["mnist corral"],
    "mnist nominal": Subject("mnist", "nominal", 0.1, overrides=MNIST),
    "cifar10 at": SUBJECTS["cifar10 at"],
}
IMAGES = {"digits": 300, "linear": 300, "mnist": 150, "cifar10": 100}
MIXES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "screening": [("screening", {})],
    "CE 20, T 9 x 18": [("apgd-ce", {"steps": 20}), ("apgd-t", {"steps": 18, "targets": 9})],
    "CE 50, T 3 x 45": [("apgd-ce", {"steps": 50}), ("apgd-t", {"steps": 45, "targets": 3})],
    "DLR 50, T 3 x 45": [("apgd-dlr", {"steps": 50}), ("apgd-t", {"steps": 45, "targets": 3})],
    "T 9 x 20": [("apgd-t", {"steps": 20, "targets": 9})],
    "T 4 x 45": [("apgd-t", {"steps": 45, "targets": 4})],
    "T 3 x 40, Square 400": [("apgd-t", {"steps": 40, "targets": 3}), ("square", {"queries": 400})],
}
COLUMNS = ("model", "data", "norm", "eps", "n", "mix", "autoattack", "left", "backwards", "seconds")


def timed(model: nn.Module, subject: Subject, n: int, attacks: Sequence[Attack]) -> tuple[Attacked, float]:
    """Attacks in turn on n images, and their CPU seconds."""
    x, y = subject.images(n)
    begun = time.process_time()
    found = run_attacks(model, x, y, attacks, batch_size=cpu_batch(x[0].numel()))
    return found, time.process_time() - begun


def rows_of(name: str, mixes: Sequence[str]) -> list[dict[str, Any]]:
    """AutoAttack once, and each mix beside it: images left, and shares of the passes and the seconds."""
    subject = MODELS[name]
    model, n = subject.model(), IMAGES[name.split(",")[0].split()[0]]
    threat = Threat(subject.norm, subject.eps)
    whole, seconds = timed(model, subject, n, standard_attacks(threat, 10))
    rows = []
    for mix in mixes:
        attacks = [ATTACKS[one].bind(threat, AttackedModel(model, 10), **settings) for one, settings in MIXES[mix]]
        found, took = timed(model, subject, n, attacks)
        known = {"model": name, "data": subject.data, "norm": subject.norm, "eps": f"{subject.eps:.4g}", "n": n}
        counts = {"autoattack": int(whole.correct.sum()), "left": int(found.correct.sum())}
        shares = {"backwards": found.backwards / whole.backwards, "seconds": took / seconds}
        rows.append(known | {"mix": mix} | counts | {key: f"{value:.4f}" for key, value in shares.items()})
        print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The error of `screening` model by model, and of every mix over all."""
    lines = [
        "| model | threat | images | AutoAttack | screening figure | error, points | backward passes | CPU seconds |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["mix"] == "screening":
            whole, left = (100 * int(row[key]) / int(row["n"]) for key in ("autoattack", "left"))
            shares = " | ".join(f"{100 * float(row[key]):.1f}%" for key in ("backwards", "seconds"))
            lines.append(
                f"| {row['model']} | {row['norm']} {row['eps']} | {row['n']} | {whole:.1f} | {left:.1f} | "
                f"{left - whole:+.1f} | {shares} |"
            )
    lines += ["", "| mix | mean error, points | largest |", "|---|---|---|"]
    for mix in MIXES:
        errors = [100 * (int(r["left"]) - int(r["autoattack"])) / int(r["n"]) for r in rows if r["mix"] == mix]
        if errors:
            lines.append(f"| {mix} | {sum(errors) / len(errors):.2f} | {max(errors):.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the file lacks, write it, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="NAME")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=[*MIXES], metavar="MIX")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "screening.csv")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(given.results)
    for name in () if given.table else given.models:
        held = {row["mix"] for row in rows if row["model"] == name}
        if missing := [mix for mix in given.mixes if mix not in held]:
            rows += rows_of(name, missing)
            write_rows(given.results, COLUMNS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
