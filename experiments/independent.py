"""Attack finished runs with the public AutoAttack code, which shares no code with corral's attacks.

usage: python experiments/independent.py RUN [RUN ...] [--n 500] [--square 500] [--full]

By default the reduced ensemble of docs/method.md's first trials: APGD-CE and APGD-DLR (100 steps, 1 restart) and
Square with 500 queries, on the first n of the run's class-balanced test subset. It is not AutoAttack and
is not named so; --full runs the standard ensemble (hours on a CPU). Needs the extra `eval`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from pyautoattack import AutoAttack

from corral.data import load, stratified_subset
from corral.training import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--square", type=int, default=500)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    for path in arguments.runs:
        model, _, info = load_model(path)
        test = stratified_subset(load(info.data).test, arguments.n, seed=0)
        x, y = test.float(), test.labels
        assert y is not None
        if arguments.full:
            attack = AutoAttack(model, norm=info.norm, eps=info.eps, version="standard", seed=0)
        else:
            attack = AutoAttack(
                model, norm=info.norm, eps=info.eps, version="custom", attacks=["apgd-ce", "apgd-dlr", "square"], seed=0
            )
            attack.apgd.n_restarts = 1
            attack.square.n_queries = arguments.square
        attack.verbose = False
        started = time.perf_counter()
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=250)
        with torch.no_grad():
            clean = (model(x).argmax(1) == y).float().mean().item()
            robust = (model(x_adv).argmax(1) == y).float().mean().item()
        largest = (x_adv - x).abs().max().item()
        print(
            json.dumps(
                {
                    "run": path.name,
                    "attacks": "standard" if arguments.full else f"apgd-ce, apgd-dlr, square-{arguments.square}",
                    "n": arguments.n,
                    "eps": info.eps,
                    "clean": round(clean, 4),
                    "robust": round(robust, 4),
                    "largest_perturbation": round(largest, 6),
                    "seconds": round(time.perf_counter() - started, 1),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
