"""Where Square Attack looks next: the published schedule of window sizes, and windows drawn ahead for many queries."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from corral.attacks.noise import integers, uniform

# Share of the image that a window covers (Andriushchenko et al. 2020, Sec. 5 and their code): P_INIT, halved after each
# of these iterations. AutoAttack uses them as they stand, not stretched to its number of queries.
P_INIT = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Hashing one query's few numbers costs as many kernel launches as hashing many queries'.
AHEAD, AHEAD_NUMBERS = 64, 2048


def window_share(iteration: int) -> float:
    """Share p of the image's area that a window covers at an iteration, counted from 0 after the start."""
    return P_INIT / (1 << bisect_left(HALVINGS, iteration))


@dataclass(frozen=True)
class Grid:
    """How an image's values are laid out: channels of height x width pixels."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: torch.Size) -> "Grid":
        """The grid of one image's shape: the last two dimensions are pixels; a vector is one row of them."""
        height, width = (1, *shape)[-2:]
        return cls(math.prod(shape[:-2]), height, width)

    def window(self, share: float, least: int = 1, odd: bool = False) -> tuple[int, int]:
        """Height and width of a window of `share`, in (0, 1], of the area: a square wherever one fits, as published.

        Where the image is narrower than the square, the window fills the narrow side and is longer on the other.

        Args:
            least: shortest side of a square.
            odd: a square of odd side, the next longer one.
        """
        area = share * self.height * self.width
        side = max(round(math.sqrt(area)), least)
        if odd and side % 2 == 0:
            side += 1
        narrow, broad = sorted((self.height, self.width))
        if side <= narrow:
            return side, side
        length = min(max(round(area / narrow), narrow, least), broad)
        return (narrow, length) if self.height == narrow else (length, narrow)


class Windows:
    """Windows and coin flips of every image, each image's own, drawn for many queries at once.

    Args:
        keys: (n,) from `corral.attacks.noise.image_keys`.
        grid: of the images.
        shape: iteration to the height and width of its windows.
        count, coins: windows and coin flips a query.
        first_draw: number of the first draw; all later numbers are used too.
    """

    def __init__(
        self,
        keys: Tensor,
        grid: Grid,
        shape: Callable[[int], tuple[int, int]],
        *,
        count: int,
        coins: int,
        first_draw: int,
    ) -> None:
        self.keys, self.grid, self.shape = keys, grid, shape
        self.count, self.coins, self.first_draw = count, coins, first_draw
        # A function of the image's shape alone: the draws must not depend on the batch.
        self.ahead = max(1, min(AHEAD, AHEAD_NUMBERS // coins))
        self._offsets = cache(partial(_offsets, grid, keys.device))
        self.block, self._corners, self._coins = self._drawn(0)

    def at(self, iteration: int) -> tuple[list[Tensor], Tensor]:
        """The windows of an iteration: `count` (n, channels * area) int64 indices of flat images, and (n, coins) bool.

        Indices run channel by channel, row by row.
        """
        block, ahead = divmod(iteration, self.ahead)
        if block != self.block:
            self.block, self._corners, self._coins = self._drawn(block)
        offsets = self._offsets(*self.shape(iteration))
        corners = self._corners[ahead]
        return [corners[:, i].unsqueeze(1) + offsets for i in range(self.count)], self._coins[ahead]

    def keep(self, indices: Tensor) -> None:
        """Go on with these rows alone."""
        self.keys = self.keys[indices]
        self._corners, self._coins = self._corners[:, indices], self._coins[:, indices]

    def _drawn(self, block: int) -> tuple[int, Tensor, Tensor]:
        shapes = [self.shape(block * self.ahead + query) for query in range(self.ahead)]
        draw, device = self.first_draw + 3 * block, self.keys.device
        # The paper's range: the last row and column, too, may be a window's (its code leaves them out).
        talls, wides = torch.tensor(shapes, device=device).unsqueeze(2).unbind(1)
        size = (self.ahead, self.count)
        tops = integers(self.keys, draw, self.grid.height - talls + 1, size)
        lefts = integers(self.keys, draw + 1, self.grid.width - wides + 1, size)
        # Query by query, so that each takes a contiguous slice.
        corners = (tops * self.grid.width + lefts).transpose(0, 1).contiguous()
        coins = uniform(self.keys, draw + 2, (self.ahead, self.coins)) >= 0.5
        return block, corners, coins.transpose(0, 1).contiguous()


def _offsets(grid: Grid, device: torch.device, tall: int, wide: int) -> Tensor:
    """(channels * tall * wide,) indices of a window's values relative to its first."""
    channels = torch.arange(grid.channels, device=device) * (grid.height * grid.width)
    rows, columns = torch.arange(tall, device=device) * grid.width, torch.arange(wide, device=device)
    return (channels.view(-1, 1, 1) + rows.view(-1, 1) + columns).flatten()
