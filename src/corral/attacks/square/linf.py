"""Square Attack's moves for Linf (Andriushchenko et al. 2020, Alg. 2): stripes first, then windows of one sign."""

import torch
from torch import Tensor

from corral.attacks.noise import uniform
from corral.attacks.square.windows import Grid, Windows, window_share


class LinfSearch:
    """Random search among the corners of the Linf balls, cut to the box.

    Args:
        x: (n, ...) images.
        keys: (n,) their keys.
        eps: radius.

    Attributes:
        best: (n, d) the best point of each row, the start at first; the candidate, between `propose` and `settle`.
    """

    def __init__(self, x: Tensor, keys: Tensor, eps: float) -> None:
        grid = Grid.of(x.shape[1:])
        self.channels = grid.channels
        self.lower, self.upper = _corners(x.flatten(1), eps)
        stripes = uniform(keys, 0, (grid.channels, 1, grid.width)) >= 0.5
        stripes = stripes.expand(-1, -1, grid.height, -1).flatten(1)
        self.best = torch.where(stripes, self.upper, self.lower)
        self.windows = Windows(
            keys, grid, lambda i: grid.window(window_share(i)), count=1, coins=grid.channels, first_draw=1
        )

    def propose(self, iteration: int) -> None:
        """Turn `best` into the next candidates: a window at one corner in each channel."""
        (indices,), coins = self.windows.at(iteration)
        old, upper, lower = (points.gather(1, indices) for points in (self.best, self.upper, self.lower))
        upper, lower = (corners.view(len(coins), self.channels, -1) for corners in (upper, lower))
        high = coins.unsqueeze(2)
        # A window that holds these corners already would waste the query: the opposite ones instead. (The authors
        # draw again until something changes, which for one channel is the same.)
        changed = torch.ne(torch.where(high, upper, lower).flatten(1), old, out=torch.empty_like(old)).amax(1)
        new = torch.where(high ^ (changed == 0).view(-1, 1, 1), upper, lower).flatten(1)
        # Few candidates are better: the best points so far are put aside whole, and taken back without them.
        self._before, self.best = self.best, self.best.scatter(1, indices, new)

    def settle(self, better: Tensor) -> None:
        """Keep the candidates of the (n,) bool rows `better`, take the others back."""
        rows = better.nonzero().squeeze(1)
        self.best = self._before.index_copy_(0, rows, self.best.index_select(0, rows)) if len(rows) else self._before

    def keep(self, indices: Tensor) -> None:
        """Go on with these rows alone."""
        self.best, self.lower, self.upper = self.best[indices], self.lower[indices], self.upper[indices]
        self.windows.keep(indices)


def _corners(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The lowest and highest pixels within eps of x and in the box; sums that round out of the ball step back."""
    lower, upper = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    lower = torch.where(x - lower > eps, torch.nextafter(lower, x), lower)
    upper = torch.where(upper - x > eps, torch.nextafter(upper, x), upper)
    return lower, upper
