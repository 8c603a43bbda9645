"""Minimal-norm attacks share this: the closest misclassified point of each image, and which rival class is nearest."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.balls import l2_norms, per_example
from corral.attacks.checks import check_batch, check_labels
from corral.attacks.objectives import check_finite, margin
from corral.attacks.victim import Victim

# Halvings of the segment from an image to its point: the distance along it is then known to 0.1%.
HALVINGS = 10
# DeepFool's own limit on the rival classes looked at (its Sec. 3, for ImageNet).
CANDIDATES = 10


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

    def mean_norm(self) -> tuple[float, int]:
        """Mean L2 distance over the images that the attack broke, and how many those are; NaN and 0 if none.

        Images that are misclassified as they are have no part in it: a less accurate model would seem less robust.
        """
        fell = self.broken & ~self.natural
        count = int(fell.sum())
        return (float(self.distances[fell].mean()) if count else float("nan")), count


class Closest:
    """The closest misclassified point found so far for each image of a batch.

    Attributes:
        victim: the model under attack, counted.
        x: (N, ...) clean images.
        y: (N,) labels.
        logits: (N, C) logits of the clean images.
        standing: (m,) places of the images that are classified rightly: those to attack.
        best: (N,) distances of the closest points so far.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.victim, self.x, self.y = Victim(model), x, y
        self.logits = self.victim.logits(x)
        check_labels(y, self.victim.classes)
        self.natural = self.logits.argmax(1) != y
        self.standing = (~self.natural).nonzero().squeeze(1)
        self.found = x.clone()
        self.best = torch.where(self.natural, 0.0, torch.inf).double()

    def offer(self, images: Tensor, points: Tensor, wrong: Tensor) -> None:
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

    def halve(self) -> None:
        """Look for closer points on the segments from the images to what was found, by bisection."""
        rows = (torch.isfinite(self.best) & ~self.natural).nonzero().squeeze(1)
        if not len(rows):
            return
        x, far = self.x[rows], self.found[rows].clone()
        low, high = x.new_zeros(len(rows)), x.new_ones(len(rows))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            points = x + per_example(middle, x) * (far - x)
            wrong = self.victim.logits(points).argmax(1) != self.y[rows]
            self.offer(rows, points, wrong)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)

    def outcome(self) -> MinimalOutcome:
        """The search's result."""
        victim = self.victim
        return MinimalOutcome(
            self.found, torch.isfinite(self.best), self.natural, self.best, victim.forwards, victim.backwards
        )


def check_minimal(x: Tensor, y: Tensor, **counts: int) -> None:
    """Check images and labels as `check_batch` does, and that every named count is at least 1.

    Raises:
        ValueError: anything else.
    """
    check_batch(x, y, 0.0, "L2")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1, found {count}")


def likeliest_rivals(logits: Tensor, y: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """(n, R) the rival classes of largest logit, R the candidates - 1 or all of them if they are fewer."""
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return others.topk(min(candidates, logits.shape[1]) - 1, 1).indices


def rival_gaps(victim: Victim, x: Tensor, y: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logit differences rival minus label, their gradients by the image, and the logits: one forward pass.

    Args:
        victim: the model.
        x: (n, ...) images.
        y: (n,) labels.
        rivals: (n, R) classes.

    Returns:
        (n, R) differences, (n, R, ...) gradients, (n, C) logits.

    Raises:
        CorralError: logits or gradients that are not finite.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = victim.model(x)
        gaps = logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))
        gradients = []
        for column in range(rivals.shape[1]):
            found = None
            if gaps.requires_grad:
                (found,) = torch.autograd.grad(gaps[:, column].sum(), x, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(x) if found is None else found)
    victim.forwards += len(x)
    victim.backwards += len(x) * rivals.shape[1]
    stacked = torch.stack(gradients, 1)
    check_finite(logits.detach(), stacked)
    return gaps.detach(), stacked, logits.detach()


def linearised_distances(gaps: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """L2 distances |gap| / ||gradient|| at which linearised logits tie (DeepFool, Eq. 8), and the gradients' lengths.

    Args:
        gaps: (n, R) logit differences.
        gradients: (n, R, ...) of each difference by the image.

    Returns:
        (n, R) distances, infinite where the gradient is zero, and (n, R) lengths.
    """
    lengths = l2_norms(gradients.flatten(0, 1)).view(gaps.shape)
    smallest = torch.finfo(gaps.dtype).tiny
    return torch.where(lengths > smallest, gaps.abs() / lengths.clamp_min(smallest), torch.inf), lengths


@dataclass(frozen=True)
class Aims:
    """The rows of an attack on the images that are classified rightly.

    Every image has a row that follows whichever rival is likeliest as it goes, as published. An image whose nearest
    rival by linearised logits is another one than the likeliest has a second row, aimed at that nearest rival: without
    it the attack ends at a farther boundary, also on a linear model.

    Attributes:
        images: (n,) places of the rows' images.
        rivals: (n,) the class that a row is aimed at; -1 for the likeliest as it goes.
        distances: (n,) linearised distance to the rival's boundary, infinite where the gradient is zero.
        slopes: (n,) length of the gradient of the logit difference.
    """

    images: Tensor
    rivals: Tensor
    distances: Tensor
    slopes: Tensor

    def take(self, logits: Tensor, y: Tensor) -> Tensor:
        """(n,) margins to ascend, the row's rival minus its label: positive only where misclassified.

        Args:
            logits: (n, C) of the rows' points.
            y: (n,) labels of the rows.
        """
        toward = logits.gather(1, self.rivals.clamp_min(0).unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))
        return torch.where(self.rivals < 0, margin(logits, y), toward.squeeze(1))


def aims(closest: Closest) -> Aims:
    """The rows to attack, from one look at the clean images' gradients."""
    rows = closest.standing
    rivals = likeliest_rivals(closest.logits[rows], closest.y[rows])
    gaps, gradients, _ = rival_gaps(closest.victim, closest.x[rows], closest.y[rows], rivals)
    distances, slopes = linearised_distances(gaps, gradients)
    nearest = distances.argmin(1, keepdim=True)
    other = (nearest > 0).squeeze(1)
    return Aims(
        torch.cat([rows, rows[other]]),
        torch.cat([torch.full_like(rows, -1), rivals.gather(1, nearest)[other, 0]]),
        torch.cat([distances[:, 0], distances.gather(1, nearest)[other, 0]]),
        torch.cat([slopes[:, 0], slopes.gather(1, nearest)[other, 0]]),
    )
