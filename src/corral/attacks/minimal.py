"""What minimal-norm attacks share: the closest misclassified point found for each image of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.balls import l2_norms, per_example
from corral.attacks.checks import check_labels
from corral.attacks.outcome import fallen
from corral.attacks.wrapped_model import WrappedModel

# Halvings of the segment from an image to its point: the distance along it is then known to 0.1%.
HALVINGS = 10


@dataclass(frozen=True)
class MinimalOutcome:
    """The result of one minimal-norm attack on a batch of N images.

    Attributes:
        x_adv: like the images: the closest misclassified point found; the image itself where none was, or where it is
            misclassified as it is.
        broken: (N,) bool, whether the model misclassifies `x_adv`, by a pass on exactly these pixels.
        natural: (N,) bool, whether it misclassifies the image itself.
        distances: (N,) float64 L2 distances of `x_adv` from the images in pixel units: 0 where `natural`, infinite
            where nothing was found.
        forwards: images that went forward through the model, summed over all passes.
        backwards: images that went backward.
    """

    x_adv: Tensor
    broken: Tensor
    natural: Tensor
    distances: Tensor
    forwards: int
    backwards: int

    @classmethod
    def nothing(cls, x: Tensor) -> "MinimalOutcome":
        """Of an attack on no images; `x` (0, ...)."""
        none = torch.zeros(0, dtype=torch.bool, device=x.device)
        return cls(x.clone(), none, none, none.double(), 0, 0)

    def mean_norm(self) -> tuple[float, int]:
        """Mean L2 distance over the images that the attack broke, and how many those are; NaN and 0 if none.

        Images that are misclassified as they are have no part in it: a less accurate model would seem less robust.
        """
        fell = self.broken & ~self.natural
        count = int(fell.sum())
        return (float(self.distances[fell].mean()) if count else float("nan")), count


class Closest:
    """The closest misclassified point (with `targeted`: classified as y) found so far for each image of a batch.

    Attributes:
        wrapped: the model under attack, counted.
        x: (N, ...) clean images.
        y: (N,) labels; the classes to reach where `targeted`.
        logits: (N, C) logits of the clean images.
        standing: (m,) places of the images that are classified rightly: those to attack.
        best: (N,) distances of the closest points so far.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool = False) -> None:
        self.wrapped, self.x, self.y, self.targeted = WrappedModel(model), x, y, targeted
        self.logits = self.wrapped.logits(x)
        check_labels(y, self.wrapped.classes)
        self.natural = fallen(self.logits, y, targeted)
        self.standing = (~self.natural).nonzero().squeeze(1)
        self.found = x.clone()
        self.best = torch.where(self.natural, 0.0, torch.inf).double()

    def update(self, images: Tensor, points: Tensor, wrong: Tensor) -> None:
        """Keep those of the (n, ...) points that are misclassified and closer than what their images have.

        Args:
            images: (n,) places of the points' images; an image may have several points.
            points: (n, ...) in [0, 1].
            wrong: (n,) bool, whether a pass on exactly these points gave another class than the label.
        """
        distances = l2_norms((points - self.x[images]).double()).where(wrong, torch.inf)
        self.best, before = self.best.scatter_reduce(0, images, distances, "amin"), self.best
        # Of two points at equal distance either may stay: indexing keeps one of them.
        closer = (distances == self.best[images]) & (distances < before[images])
        self.found[images[closer]] = points[closer]

    def bisect(self) -> None:
        """Look for closer points on the segments from the images to what was found, by bisection."""
        rows = (torch.isfinite(self.best) & ~self.natural).nonzero().squeeze(1)
        if not len(rows):
            return
        x, far = self.x[rows], self.found[rows].clone()
        low, high = x.new_zeros(len(rows)), x.new_ones(len(rows))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            points = x + per_example(middle, x) * (far - x)
            wrong = fallen(self.wrapped.logits(points), self.y[rows], self.targeted)
            self.update(rows, points, wrong)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

    def outcome(self) -> MinimalOutcome:
        """The search's result."""
        wrapped = self.wrapped
        return MinimalOutcome(
            self.found, torch.isfinite(self.best), self.natural, self.best, wrapped.forwards, wrapped.backwards
        )
