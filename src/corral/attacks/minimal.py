"""What minimal-norm attacks share: the closest misclassified point of each image, and the rivals that they walk to."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.balls import l2_norms, per_example
from corral.attacks.objectives import check_finite, margin
from corral.attacks.outcome import Outcome, success
from corral.attacks.wrapped_model import WrappedModel, image_gradient

# Halvings of the segment from an image to its point: the distance along it is then known to 0.1%.
HALVINGS = 10
# DeepFool's own limit on the rival classes looked at (its Sec. 3, for ImageNet).
CANDIDATES = 10
# Linearised distances that attacks start from are at least this: from 0, an image on its boundary, nothing grows.
SHORTEST = 1e-4


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
        forwards, backwards: images that went through the model, summed over all passes.
    """

    x_adv: Tensor
    broken: Tensor
    natural: Tensor
    distances: Tensor
    forwards: int
    backwards: int

    @classmethod
    def nothing(cls, x: Tensor) -> "MinimalOutcome":
        """For an empty batch.

        Args:
            x: (0, C, H, W).
        """
        none = torch.zeros(0, dtype=torch.bool, device=x.device)
        return cls(x.clone(), none, none, none.double(), 0, 0)

    def outcome(self) -> Outcome:
        """As that of an attack, whose one step is the whole search."""
        step = torch.where(self.natural, 0, torch.where(self.broken, 1, -1))
        return Outcome(self.x_adv, self.broken | self.natural, step, self.forwards, self.backwards)


class Closest:
    """The closest misclassified point (with `targeted`: classified as y) found so far for each image of a batch.

    Attributes:
        wrapped: the model under attack, counted.
        x, y, logits: the clean images, their labels (the classes to reach where `targeted`) and their logits.
        remaining: (m,) indices of the images that are classified right: those to attack.
        best: (N,) distances of the closest points so far.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, targeted: bool = False) -> None:
        self.wrapped, self.x, self.y, self.targeted = WrappedModel(model), x, y, targeted
        self.logits = self.wrapped.clean_logits(x, y)
        self.natural = success(self.logits, y, targeted)
        self.remaining = (~self.natural).nonzero().squeeze(1)
        self.found = x.clone()
        self.best = torch.where(self.natural, 0.0, torch.inf).double()

    def update(self, images: Tensor, points: Tensor, wrong: Tensor) -> None:
        """Keep those of the (n, ...) points that are misclassified and closer than what their images have.

        Args:
            images: (n,) indices of the points' images; an image may have several points.
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
        indices = (torch.isfinite(self.best) & ~self.natural).nonzero().squeeze(1)
        if not len(indices):
            return
        x, far = self.x[indices], self.found[indices].clone()
        low, high = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            points = x + per_example(middle, x) * (far - x)
            wrong = success(self.wrapped.logits(points), self.y[indices], self.targeted)
            self.update(indices, points, wrong)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

    def outcome(self) -> MinimalOutcome:
        """The search's result."""
        wrapped = self.wrapped
        return MinimalOutcome(
            self.found, torch.isfinite(self.best), self.natural, self.best, wrapped.forwards, wrapped.backwards
        )


def likeliest_rivals(logits: Tensor, y: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """(n, R) the rival classes of largest logit, R the candidates - 1 or all of them if they are fewer."""
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return others.topk(min(candidates, logits.shape[1]) - 1, 1).indices


def rival_gaps(wrapped: WrappedModel, x: Tensor, y: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logit differences (n, R) of rivals (n, R) minus label, their gradients (n, R, ...) and the logits: one pass.

    Raises:
        CorralError: logits or gradients that are not finite.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = wrapped.model(x)
        gaps = logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))
        gradients = [image_gradient(gap, x, retain=True) for gap in gaps.unbind(1)]
    wrapped.forwards += len(x)
    wrapped.backwards += len(x) * rivals.shape[1]
    stacked = torch.stack(gradients, 1)
    check_finite(logits.detach(), stacked)
    return gaps.detach(), stacked, logits.detach()


def linearised_distances(gaps: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """L2 distances |gap| / ||gradient|| at which linearised logits tie (DeepFool, Eq. 8), and the gradients' lengths.

    Both are (n, R), as the gaps; a distance is infinite where the gradient is zero.
    """
    lengths = l2_norms(gradients.flatten(0, 1)).view(gaps.shape)
    smallest = torch.finfo(gaps.dtype).tiny
    return torch.where(lengths > smallest, gaps.abs() / lengths.clamp_min(smallest), torch.inf), lengths


@dataclass(frozen=True)
class Walks:
    """The walks of an attack on the images that are classified right.

    Every image has a walk toward whichever rival is likeliest at each step, as published. An image whose nearest rival
    by linearised logits is another one than the likeliest has a second walk, aimed at that nearest rival: without it
    the attack ends at a farther boundary, also on a linear model.

    Attributes:
        images: (n,) indices of the walks' images.
        rivals: (n,) the class that a walk is aimed at; -1 for the likeliest at each step.
        distances: (n,) linearised distance to the rival's boundary, at least SHORTEST; infinite without a gradient.
        slopes: (n,) length of the gradient of the logit difference.
        targeted: the labels are the classes to reach, each from whichever other class is the likeliest as it goes.
    """

    images: Tensor
    rivals: Tensor
    distances: Tensor
    slopes: Tensor
    targeted: bool = False

    def take(self, logits: Tensor, y: Tensor) -> Tensor:
        """(n,) margins to ascend, the rival's logit minus the label's (n,): positive only where misclassified."""
        if self.targeted:
            return -margin(logits, y)
        toward = logits.gather(1, self.rivals.clamp_min(0).unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))
        return torch.where(self.rivals < 0, margin(logits, y), toward.squeeze(1))


def walks_of(closest: Closest) -> Walks:
    """The walks to run, by the clean images' gradients."""
    indices = closest.remaining
    # Toward a target the boundary is that with the class that the image is of.
    rivals = likeliest_rivals(closest.logits[indices], closest.y[indices], 2 if closest.targeted else CANDIDATES)
    gaps, gradients, _ = rival_gaps(closest.wrapped, closest.x[indices], closest.y[indices], rivals)
    distances, slopes = linearised_distances(gaps, gradients)
    nearest = distances.argmin(1, keepdim=True)
    distances = distances.clamp_min(SHORTEST)
    other = (nearest > 0).squeeze(1)
    return Walks(
        torch.cat([indices, indices[other]]),
        torch.cat([torch.full_like(indices, -1), rivals.gather(1, nearest)[other, 0]]),
        torch.cat([distances[:, 0], distances.gather(1, nearest)[other, 0]]),
        torch.cat([slopes[:, 0], slopes.gather(1, nearest)[other, 0]]),
        closest.targeted,
    )
