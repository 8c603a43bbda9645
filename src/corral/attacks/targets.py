"""Which rival class is nearest by linearised logits, and the rows that minimal-norm attacks run toward it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.attacks.balls import l2_norms
from corral.attacks.minimal import Closest
from corral.attacks.objectives import check_finite, margin
from corral.attacks.wrapped_model import WrappedModel

# DeepFool's own limit on the rival classes looked at (its Sec. 3, for ImageNet).
CANDIDATES = 10
# Linearised distances that attacks start from are at least this: from 0, an image on its boundary, nothing grows.
SHORTEST = 1e-4


def likeliest_rivals(logits: Tensor, y: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """(n, R) the rival classes of largest logit, R the candidates - 1 or all of them if they are fewer."""
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return others.topk(min(candidates, logits.shape[1]) - 1, 1).indices


def rival_gaps(wrapped: WrappedModel, x: Tensor, y: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logit differences rival minus label, their gradients by the image, and the logits: one forward pass.

    Args:
        wrapped: the model.
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
        logits = wrapped.model(x)
        gaps = logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))
        gradients = []
        for column in range(rivals.shape[1]):
            found = None
            if gaps.requires_grad:
                (found,) = torch.autograd.grad(gaps[:, column].sum(), x, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(x) if found is None else found)
    wrapped.forwards += len(x)
    wrapped.backwards += len(x) * rivals.shape[1]
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
class Targets:
    """The rows of an attack on the images that are classified rightly.

    Every image has a row that follows whichever rival is likeliest as it goes, as published. An image whose nearest
    rival by linearised logits is another one than the likeliest has a second row, aimed at that nearest rival: without
    it the attack ends at a farther boundary, also on a linear model.

    Attributes:
        images: (n,) places of the rows' images.
        rivals: (n,) the class that a row is aimed at; -1 for the likeliest as it goes.
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
        """(n,) margins to ascend, the row's rival minus its label: positive only where misclassified.

        Args:
            logits: (n, C) of the rows' points.
            y: (n,) labels of the rows.
        """
        if self.targeted:
            return -margin(logits, y)
        toward = logits.gather(1, self.rivals.clamp_min(0).unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))
        return torch.where(self.rivals < 0, margin(logits, y), toward.squeeze(1))


def targets_of(closest: Closest) -> Targets:
    """The rows to attack, from one look at the clean images' gradients."""
    rows = closest.standing
    # Toward a target the boundary is that with the class that the image is of.
    rivals = likeliest_rivals(closest.logits[rows], closest.y[rows], 2 if closest.targeted else CANDIDATES)
    gaps, gradients, _ = rival_gaps(closest.wrapped, closest.x[rows], closest.y[rows], rivals)
    distances, slopes = linearised_distances(gaps, gradients)
    nearest = distances.argmin(1, keepdim=True)
    distances = distances.clamp_min(SHORTEST)
    other = (nearest > 0).squeeze(1)
    return Targets(
        torch.cat([rows, rows[other]]),
        torch.cat([torch.full_like(rows, -1), rivals.gather(1, nearest)[other, 0]]),
        torch.cat([distances[:, 0], distances.gather(1, nearest)[other, 0]]),
        torch.cat([slopes[:, 0], slopes.gather(1, nearest)[other, 0]]),
        closest.targeted,
    )
