"""Several attacks in turn on what the ones before left standing: the worst case of an image over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.outcome import Outcome


@dataclass(frozen=True)
class Cascade:
    """What a sequence of attacks left.

    Attributes:
        outcome: of the sequence as one attack; `step` is the step of the attack that broke the image.
        by: (N,) int64 place of the attack that broke the image, -1 where it stands or is misclassified without attack.
        standing: for each attack, how many of the N images stand after it.
    """

    outcome: Outcome
    by: Tensor
    standing: tuple[int, ...]


def cascade(attacks: Sequence[Attack], model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Cascade:
    """Run attacks in turn, each on the images that stand; an image's result is that of attacking it with each alone.

    Args:
        attacks: at least one.
        model: as every attack takes it.
        x: (N, ...) images in [0, 1].
        y: (N,) labels.
        seed: of all their random numbers.

    Raises:
        ValueError: no attack, or what an attack refuses.
    """
    if not attacks:
        raise ValueError("a cascade needs at least one attack, found none")
    found, step = x.detach().clone(), torch.full((len(x),), -1, device=x.device)
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    by = torch.full((len(x),), -1, device=x.device)
    forwards = backwards = 0
    standing = []
    for place, attack in enumerate(attacks):
        rows = (~broken).nonzero().squeeze(1)
        if len(rows):
            result = attack.run(model, x[rows], y[rows], seed=seed)
            fell = rows[result.broken]
            # What stands keeps the point of the first attack, whose objective is the field's common one.
            taken = result.broken if place else torch.ones_like(result.broken)
            found[rows[taken]] = result.x_adv[taken]
            broken[fell], step[fell] = True, result.step[result.broken]
            by[fell] = torch.where(result.step[result.broken] > 0, place, -1)
            forwards, backwards = forwards + result.forwards, backwards + result.backwards
        standing.append(int((~broken).sum()))
    return Cascade(Outcome(found, broken, step, forwards, backwards), by, tuple(standing))
