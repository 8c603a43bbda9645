"""AutoAttack's time beside the public implementation's, and beside the bare passes that it needs.

usage: OMP_NUM_THREADS=1 python benchmarks/attack_speed.py [--subjects "digits at" ...] [--n 100 300 1000]
           [--share 0.1] [--repeats 3] [--attacks apgd-ce ...]

In one process and one thread, in turn: ours, a replay of its forward and backward passes (the same number and sizes,
nothing between them), the public implementation. CPU seconds; the median of the repeats' ratios, and their range. With
--share below 1 both have that share of the steps and queries. The public implementation gets all images in one batch,
ours the batch size that it chooses. Models that are not committed are trained into runs/benchmarks first (minutes).
"""

import argparse
import logging
import time
from collections.abc import Callable, Sequence

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

import history
from corral.attacks.attack import Attack
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.engine import cpu_batch, run_attacks
from corral.attacks.registry import ATTACKS
from corral.attacks.state import attacked
from corral.attacks.threat import Threat
from models import SUBJECTS, Subject

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
STEPS, QUERIES = 100, 5000
# What an idle core does in about five minutes: large networks on few images.
SIZES = {"linear": (100, 300, 1000), "digits": (100, 300, 500), "mnist": (100, 300), "cifar10": (100,)}
# Ours at most so much of the public time, on robust and on broken models, and of the bare passes.
ROBUST, BROKEN, BARE = 0.7, 0.3, 1.15


class Recorded(nn.Module):
    """A model that lists its passes: the number of images, and whether a gradient went back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.passes: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """As the model."""
        found: Tensor = self.model(x)
        entry = [len(x), 0]
        self.passes.append(entry)
        if found.requires_grad:
            found.register_hook(lambda _: entry.__setitem__(1, 1))
        return found


def replay(model: nn.Module, x: Tensor, passes: Sequence[Sequence[int]]) -> None:
    """The same passes and nothing else."""
    most = max(count for count, _ in passes)
    images = x.repeat(-(-most // len(x)), *[1] * (x.dim() - 1))
    with attacked(model, fold=True):
        for count, backward in passes:
            if backward:
                some = images[:count].detach().requires_grad_(True)
                logits = model(some)
                torch.autograd.grad(logits, some, torch.ones_like(logits))
            else:
                with torch.no_grad():
                    model(images[:count])


def own_attacks(subject: Subject, names: Sequence[str], share: float) -> list[Attack]:
    """Ours, with a share of their steps and queries."""
    threat, target = Threat(subject.norm, subject.eps), AttackedModel(nn.Identity(), classes=10)
    settings = {name: {"steps": round(share * STEPS)} for name in STANDARD} | {
        "square": {"queries": round(share * QUERIES)}
    }
    return [ATTACKS[name].bind(threat, target, **settings[name]) for name in names]


def public(model: nn.Module, subject: Subject, names: Sequence[str], share: float) -> AutoAttack:
    """The public implementation with the same."""
    found = AutoAttack(model, norm=subject.norm, eps=subject.eps, version="standard", seed=0, device="cpu")
    found.verbose, found.attacks_to_run = False, list(names)
    steps = round(share * STEPS)
    for one in (found.apgd, found.apgd_targeted):
        one.n_iter = steps
        one.n_iter_2, one.n_iter_min, one.size_decr = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
    found.fab.n_iter, found.square.n_queries = steps, round(share * QUERIES)
    return found


def timed(function: Callable[[], Tensor | None]) -> tuple[float, Tensor | None]:
    """CPU seconds of a call, and what it gives."""
    begun = time.process_time()
    found = function()
    return time.process_time() - begun, found


def measured(name: str, n: int, attacks: Sequence[str], share: float, repeats: int) -> dict[str, list[float]]:
    """The ratios of every repeat, and a printed row."""
    subject = SUBJECTS[name]
    model, (x, y) = subject.model(), subject.images(n)
    own = own_attacks(subject, attacks, share)
    size = cpu_batch(x[0].numel())

    def ours(which: nn.Module) -> Tensor:
        return run_attacks(which, x, y, own, batch_size=size).x_adv

    recorded = Recorded(model).eval()
    ours(recorded)
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "public": []}
    for _ in range(repeats):
        took, x_adv = timed(lambda: ours(model))
        seconds["ours"].append(took)
        seconds["bare"].append(timed(lambda: replay(model, x, recorded.passes))[0])
        reference = public(model, subject, attacks, share)
        took, other = timed(lambda: reference.run_standard_evaluation(x, y, batch_size=n)[0])  # noqa: B023
        seconds["public"].append(took)
    with torch.no_grad():
        robust, others = (100 * float((model(found).argmax(1) == y).float().mean()) for found in (x_adv, other))
    ratios = {what: [a / b for a, b in zip(seconds["ours"], seconds[what], strict=True)] for what in ("public", "bare")}
    aim = BROKEN if subject.broken else ROBUST
    missed = [what for what, most in (("public", aim), ("bare", BARE)) if history.spread(ratios[what])[0] > most]
    print(
        f"| {name} | {n} | {robust:.1f} / {others:.1f} | {min(seconds['ours']):.2f} | {history.words(ratios['public'])}"
        f" | {history.words(ratios['bare'])} | {'missed: ' + ', '.join(missed) if missed else 'met'} |",
        flush=True,
    )
    return {f"{name}, n {n}, ours / {what}": values for what, values in ratios.items()}


def main() -> None:
    """Print a row for each model and number of images, and add the ratios to the history."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = [name for name in SUBJECTS if "corral" not in name]
    known = ", ".join(SUBJECTS)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=usual, metavar="NAME", help=known)
    parser.add_argument("--n", type=int, nargs="+", help="default: as many as an idle core does in five minutes")
    parser.add_argument("--attacks", nargs="+", choices=STANDARD, default=STANDARD)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, 1 thread, {given.share:g} of the steps and queries; CPU seconds")
    print("| model | n | robust, ours / public | seconds | ours / public | ours / bare passes | aims |")
    print("|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {}
    for name in given.subjects:
        for n in given.n or SIZES[name.split(",")[0].split()[0]]:
            ratios |= measured(name, n, given.attacks, given.share, given.repeats)
    whole = "" if tuple(given.attacks) == STANDARD else f", {' '.join(given.attacks)}"
    history.append("attack_speed", {f"{name}, share {given.share:g}{whole}": all_ for name, all_ in ratios.items()})


if __name__ == "__main__":
    main()
