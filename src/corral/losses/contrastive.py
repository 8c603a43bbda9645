"""Contrastive losses of several views of the same images: NT-Xent, and Eq. 1 of NCP-ACL with more positives."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from corral.precision import full_precision

# Rows of similarities held at once while gradients are computed: memory grows with the batch, not with its square.
BLOCK = 2048
Positives = Literal["together", "each"]


@full_precision
def contrastive(
    views: Tensor,
    *,
    temperature: float = 0.5,
    anchors: int | None = None,
    positives: Positives = "together",
    block: int = BLOCK,
) -> Tensor:
    """-log of the positives' share of exp(cos / tau) among all other embeddings (NCP-ACL Eq. 1), a value an anchor.

    The positives of an anchor are the other views of its image, its negatives all views of all other images; it is
    none of them itself. With two views this is NT-Xent (SimCLR, Eq. 1).

    Args:
        views: (V, N, d) embeddings of V >= 2 views of N images; only their directions count; a zero vector has none
            (its cosines are 0) and its gradient is no finite slope: 1e12 times the others'.
        temperature: tau > 0.
        anchors: how many of the views, the first ones, are anchors; None for all.
        positives: of several, "together" takes -log of their shares' sum, "each" the mean of -log of each share
            (Khosla et al. 2020, Eq. 2; AdvCL); with two views they are the same.
        block: anchors whose similarities are held at once: (block, V N) numbers; they are computed again for gradients.

    Returns:
        (anchors, N) losses, at least 0.

    Raises:
        ValueError: fewer than two views, no image, or an argument outside its range.
    """
    if positives not in get_args(Positives):
        raise ValueError(f"positives {positives!r} is not one of {', '.join(get_args(Positives))}")
    if views.dim() != 3 or views.shape[0] < 2 or views.shape[1] < 1:
        raise ValueError(f"views must be (V, N, d) with at least 2 views of 1 image, found {tuple(views.shape)}")
    count, images = views.shape[:2]
    chosen = count if anchors is None else anchors
    if not temperature > 0 or not 1 <= chosen <= count or block < 1:
        raise ValueError(
            f"temperature must be above 0, anchors from 1 to {count} and block above 0, found {temperature}, {chosen}, "
            f"{block}"
        )
    units = torch.nn.functional.normalize(views, dim=2).flatten(0, 1)
    owners = torch.arange(images, device=views.device).repeat(count)
    losses = []
    for indices in torch.split(torch.arange(chosen * images, device=views.device), block):
        losses.append(checkpoint(_of_anchors, units, indices, owners, temperature, positives, use_reentrant=False))
    return torch.cat(losses).view(chosen, images)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Scalar: the mean NT-Xent loss of (N, d) embeddings of two views, tau > 0 (SimCLR, Eq. 1).

    Args:
        first: (N, d) embeddings of one view.
        second: (N, d) of the other.
        temperature: tau > 0.
    """
    return contrastive(torch.stack([first, second]), temperature=temperature).mean()


@full_precision
def negative_cosine(first: Tensor, second: Tensor) -> Tensor:
    """(N,) CosSim of NCP-ACL and DeACL: minus the cosine of (N, d) vectors, in [-1, 1]; 0 for a zero vector.

    Args:
        first: (N, d).
        second: (N, d).
    """
    normalize = torch.nn.functional.normalize
    return -(normalize(first, dim=1) * normalize(second, dim=1)).sum(1)


def _of_anchors(units: Tensor, indices: Tensor, owners: Tensor, temperature: float, positives: Positives) -> Tensor:
    logits = units[indices] @ units.T / temperature
    itself = indices.unsqueeze(1) == torch.arange(len(units), device=indices.device)
    others = logits.masked_fill(itself, -torch.inf)
    positive = (owners[indices].unsqueeze(1) == owners) & ~itself
    if positives == "together":
        near: Tensor = logits.masked_fill(~positive, -torch.inf).logsumexp(1)
    else:
        near = logits.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)
    found: Tensor = others.logsumexp(1) - near
    return found
