"""Invariant regularisation of adversarial contrastive learning (AIR, Xu et al. 2023), in log space."""

import torch
from torch import Tensor

from corral.precision import full_precision


@full_precision
def standard_invariance(first: Tensor, second: Tensor, original: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Scalar: KL(p_1 || p_2) over the batch, p_v(k) = softmax_k of cos(view v of image k, image k) / tau (AIR, Eq. 5).

    This is the paper's; the released code gives probabilities to a function that expects their logarithms.

    Args:
        first: (N, d) embeddings of one view.
        second: (N, d) of the other.
        original: (N, d) of the images without augmentation.
        temperature: tau > 0.

    Returns:
        At least 0 up to rounding; 0 where both views are alike.
    """
    one, other = _log_shares(first, original, temperature), _log_shares(second, original, temperature)
    return (one.exp() * (one - other)).sum()


@full_precision
def adversarial_invariance(
    first: Tensor,
    second: Tensor,
    first_adversarial: Tensor,
    second_adversarial: Tensor,
    original: Tensor,
    *,
    temperature: float = 0.5,
) -> Tensor:
    """Scalar: sum_k q_1(k) log(q_1(k) / q_2(k)), q_v the product of two such softmaxes (AIR, Eq. 7).

    One compares the adversarial view with the image, the other with the view that it came from. Their product is no
    distribution, so that the sum may be below 0, as in the paper. Other arguments as `standard_invariance`.

    Args:
        first: (N, d) embeddings of one view.
        second: (N, d) of the other.
        first_adversarial: (N, d) of the first view's adversarial version.
        second_adversarial: (N, d) of the second's.
        original: (N, d) of the images without augmentation.
        temperature: tau > 0.
    """
    one, other = (
        _log_shares(moved, original, temperature) + _log_shares(moved, view, temperature)
        for moved, view in ((first_adversarial, first), (second_adversarial, second))
    )
    return (one.exp() * (one - other)).sum()


def _log_shares(embeddings: Tensor, others: Tensor, temperature: float) -> Tensor:
    """(N,) log-softmax over the batch of cosines of each embedding with its other."""
    cosines: Tensor = torch.nn.functional.cosine_similarity(embeddings, others, dim=1)
    return (cosines / temperature).log_softmax(0)
