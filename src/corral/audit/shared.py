"""The attacks of an audit over several processes: each attacks its part of the images within its own budget."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from corral.attacks.engine import Attacked
from corral.distributed import ranks


def attacked_together(attack: Callable[[Tensor], Attacked], right: Tensor) -> Attacked:
    """What attacks within a budget did to images, image i by process i mod P of P.

    As of one process, the images done are the first in their order; what a process did beyond those counts for its
    passes and seconds alone.

    Args:
        attack: of (m,) indices of images: attacks them in this order, the first of them within its budget; no
            adversarial image is kept.
        right: (n,) bool, classified right without attack; the same in all processes.
    """
    if ranks.size() == 1:
        return attack(torch.arange(len(right), device=right.device))
    own = torch.arange(ranks.rank(), len(right), ranks.size(), device=right.device)
    found = attack(own)
    mine = (found.broken.cpu(), found.step.cpu(), found.by.cpu())
    counts = [(one.forwards, one.backwards, one.seconds) for one in found.tallies]
    done = torch.zeros(len(right), dtype=torch.bool)
    broken, step, by = done.clone(), torch.full((len(right),), -1), torch.full((len(right),), -1)
    shares = ranks.everyones((mine, counts, found.stopped))
    for number, (theirs, _, _) in enumerate(shares):
        places = torch.arange(number, len(right), ranks.size())[: len(theirs[0])]
        done[places] = True
        for whole, part in zip((broken, step, by), theirs, strict=True):
            whole[places] = part
    missing = (~done).nonzero()
    first = int(missing[0]) if len(missing) else len(right)
    by = by[:first]
    tallies, given = [], int(right[:first].sum())
    for number, tally in enumerate(found.tallies):
        hits = int((by == number).sum())
        forwards, backwards, seconds = (sum(column) for column in zip(*(one[1][number] for one in shares), strict=True))
        tallies.append(
            replace(tally, given=given, broken=hits, forwards=forwards, backwards=backwards, seconds=seconds)
        )
        given -= hits
    broken, step, by = (one[:first].to(right.device) for one in (broken, step, by))
    return Attacked(broken, step, by, found.x_adv, tuple(tallies), sum(one[2] for one in shares))
