"""Square Attack's moves for L2 (Andriushchenko et al. 2020, Alg. 3): length moves from one window to another."""

import math
from functools import cache, partial

import torch
from torch import Tensor

from corral.attacks.noise import signs, uniform
from corral.attacks.square.windows import Grid, Windows, window_share

# Tiles along each side of the start; the shortest side of a window.
TILES, LEAST = 5, 3
# Length, relative to the ball's radius, of what rounding leaves of a perturbation; mass of a sum that cancels.
NEGLIGIBLE, CANCELLED = 1e-6, 1e-6
TINY = torch.finfo(torch.float64).tiny


class L2Search:
    """Random search on the L2 spheres: one window's perturbation is cleared, another one grows, bent by two bumps.

    Lengths are counted as mass, the sum of |delta|^order, which adds up over windows. Only the windows' values change
    in a query, so only they are read and written, and each image's mass is carried along, in float64.

    Arguments and attributes as `LinfSearch`.
    """

    order, steepness = 2, 2

    def __init__(self, x: Tensor, keys: Tensor, eps: float) -> None:
        self.grid = Grid.of(x.shape[1:])
        self.x = x.flatten(1)
        # What rounding of the pixels can add to a perturbation's length is left unused: results are in the ball.
        rounding = torch.finfo(x.dtype).eps / 4 * self.x.shape[1] ** (1 / self.order)
        self.radius = max(eps * (1 - 1e-6) - rounding, 0.0)
        self.full = math.pow(self.radius, self.order)
        self.windows = Windows(keys, self.grid, self._window, count=2, coins=1 + self.grid.channels, first_draw=2)
        self.bumps = cache(partial(bumps, order=self.order, steepness=self.steepness, device=x.device))
        self.best = self._fitted(self._tiles(keys))
        self.mass = self._masses(self.best.double() - self.x.double())

    def propose(self, iteration: int) -> None:
        """Turn `best` into the next candidates: one window cleared, its mass and all unused mass in another."""
        bent, moved = self._move(iteration)
        clean = self._clean_first.double()
        self._new = (clean + bent).clamp(0, 1).to(self.best.dtype)
        self.best.scatter_(1, self._first, self._new)
        self._new_mass = self.mass - moved + self._masses(self._new.double() - clean)

    def settle(self, better: Tensor) -> None:
        """Keep the candidates of the (n,) bool rows `better`, take the others back."""
        chosen = better.unsqueeze(1)
        # In this order: where the windows overlap, the second's old values were read after the first was cleared.
        self.best.scatter_(1, self._second, torch.where(chosen, self._clean_second, self._old_second))
        self.best.scatter_(1, self._first, torch.where(chosen, self._new, self._old_first))
        self.mass = torch.where(better, self._new_mass, self.mass)

    def keep(self, indices: Tensor) -> None:
        """Go on with these rows alone."""
        self.best, self.x, self.mass = self.best[indices], self.x[indices], self.mass[indices]
        self.windows.keep(indices)

    def _window(self, iteration: int) -> tuple[int, int]:
        return self.grid.window(window_share(iteration), LEAST, odd=True)

    def _move(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Clear both windows in `best`; the perturbation for the first, (n, channels * area), and the mass cleared."""
        (self._first, self._second), coins = self.windows.at(iteration)
        self._clean_first, self._old_first = self.x.gather(1, self._first), self.best.gather(1, self._first)
        self.best.scatter_(1, self._first, self._clean_first)
        self._clean_second, self._old_second = self.x.gather(1, self._second), self.best.gather(1, self._second)
        self.best.scatter_(1, self._second, self._clean_second)
        channels = (-1, self.grid.channels, self._first.shape[1] // self.grid.channels)
        old = (self._old_first.double() - self._clean_first.double()).view(channels)
        own = self._masses(old)
        moved = own + self._masses((self._old_second.double() - self._clean_second.double()).view(channels))
        bump = self.bumps(*self._window(iteration))[coins[:, 0].long()].unsqueeze(1)
        bump = torch.where(coins[:, 1:].unsqueeze(2), bump, -bump)
        # Rounding is no direction: it counts neither as an old perturbation nor, where old and new cancel, as the sum.
        bent = bump + old / (self._lengths(own) + NEGLIGIBLE * self.radius).clamp_min(TINY).unsqueeze(2)
        mass = self._masses(bent).unsqueeze(2)
        bent = torch.where(mass > CANCELLED, bent / self._lengths(mass).clamp_min(TINY), bump)
        return (bent * self._lengths(self._due(moved)).unsqueeze(2)).flatten(1), moved.sum(1)

    def _due(self, moved: Tensor) -> Tensor:
        """Mass of each channel's new window, (n, channels): what was cleared, and a share of what the box cut off."""
        unused: Tensor = (self.full - self.mass) / self.grid.channels
        return (moved + unused.unsqueeze(1)).clamp_min(0)

    def _fitted(self, delta: Tensor) -> Tensor:
        """Points (n, d) of the ball and the box for perturbations of any length."""
        lengths: Tensor = self._lengths(self._masses(delta)).clamp_min(TINY)
        scaled: Tensor = delta * (self.radius / lengths).unsqueeze(1)
        return (self.x.double() + scaled).clamp(0, 1).to(self.x.dtype)

    def _tiles(self, keys: Tensor) -> Tensor:
        """The start's perturbation (n, d) before scaling: tiles of bumps, each of its own direction and signs."""
        grid, count = self.grid, len(keys)
        tall, wide = max(grid.height // TILES, 1), max(grid.width // TILES, 1)
        rows, columns = grid.height // tall, grid.width // wide
        turned = uniform(keys, 0, (1, rows, columns)) >= 0.5
        shapes = self.bumps(tall, wide).view(2, tall, wide)[turned.long()]
        tiles = shapes * signs(keys, 1, (grid.channels, rows, columns, 1, 1))
        delta = torch.zeros(count, grid.channels, grid.height, grid.width, dtype=tiles.dtype, device=tiles.device)
        top, left = (grid.height - rows * tall) // 2, (grid.width - columns * wide) // 2
        delta[:, :, top : top + rows * tall, left : left + columns * wide] = tiles.transpose(3, 4).reshape(
            count, grid.channels, rows * tall, columns * wide
        )
        return delta.flatten(1)

    def _masses(self, delta: Tensor) -> Tensor:
        """Sums of |delta|^order over the last dimension."""
        return delta.square().sum(-1) if self.order == 2 else delta.abs().sum(-1)

    def _lengths(self, masses: Tensor) -> Tensor:
        return masses.sqrt() if self.order == 2 else masses


def bumps(tall: int, wide: int, *, order: int, steepness: int, device: torch.device) -> Tensor:
    """(2, tall * wide) float64: a positive bump above a negative one, and a positive bump left of a negative one.

    Sec. 3.4 of the paper: values fall like a sum of 1 / k^steepness over the rings around a bump's middle; in the norm
    of this order each half, then the whole, has length 1.
    """
    above = _pair(tall, wide, order, steepness)
    left = _pair(wide, tall, order, steepness).T
    return torch.stack([above.flatten(), left.flatten()]).to(device)


def _pair(tall: int, wide: int, order: int, steepness: int) -> Tensor:
    halves = [_bump(tall // 2, wide, order, steepness), -_bump(tall - tall // 2, wide, order, steepness)]
    return _unit(torch.cat(halves), order)


def _bump(tall: int, wide: int, order: int, steepness: int) -> Tensor:
    """The paper's Eq. 1: at r rings from the middle, the sum over k > r of 1 / k^steepness."""
    if tall == 0:
        return torch.zeros(0, wide, dtype=torch.float64)
    rows, columns = (torch.arange(tall) - tall // 2).abs(), (torch.arange(wide) - wide // 2).abs()
    rings = torch.maximum(rows.unsqueeze(1), columns)
    terms = torch.arange(1, max(tall // 2, wide // 2) + 2, dtype=torch.float64) ** -steepness
    bump = terms.flip(0).cumsum(0).flip(0)[rings]
    return _unit(bump, order)


def _unit(values: Tensor, order: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, order)
    return values / length
