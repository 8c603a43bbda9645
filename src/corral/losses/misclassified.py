"""MART's loss (Wang et al. 2020): misclassified images count more, in log space throughout."""

import torch
import torch.nn.functional as F
from torch import Tensor

from corral.losses.consistency import kl
from corral.precision import full_precision


@full_precision
def log_complement(logits: Tensor, classes: Tensor) -> Tensor:
    """log(1 - p_k), from logits alone: log p_j less its like among the classes without k, j the likeliest of those.

    It keeps its digits where p_k rounds to 1: the value falls as the logits' difference, the gradient does not vanish.

    Args:
        logits: (N, C) finite, C at least 2.
        classes: (N,) integers k in [0, C).

    Returns:
        (N,) values, at most 0 up to rounding.
    """
    others = logits.scatter(1, classes.unsqueeze(1), -torch.inf)
    likeliest = others.argmax(1, keepdim=True)
    return (logits.log_softmax(1).gather(1, likeliest) - others.log_softmax(1).gather(1, likeliest)).squeeze(1)


@full_precision
def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k) (MART, the first term of its Eq. 11).

    The released code has log(1.0001 - p_k + 1e-12) for the second term, which is never above 9.21 and whose gradient
    vanishes where a wrong class is certain; here it grows as the difference of the logits does.

    Args:
        logits: (N, C) finite, C at least 2.
        labels: (N,) integers in [0, C).

    Returns:
        (N,) values, at least 0 up to rounding.
    """
    rivals = logits.scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)
    return F.cross_entropy(logits, labels, reduction="none") - log_complement(logits, rivals)


@full_precision
def misclassified_kl(logits: Tensor, adversarial_logits: Tensor, labels: Tensor) -> Tensor:
    """KL(p || p_adv) (1 - p_y) (MART, Eq. 11): the divergence counts by how far the clean image is misclassified.

    Gradients flow to both arguments, through the factor too, as in the released code. That has 1.0000001 - p_y and
    log(p_adv + 1e-12), which this equals to 1e-7 where no probability is below 1e-5.

    Args:
        logits: (N, C) finite, of the clean images, C at least 2.
        adversarial_logits: (N, C) finite.
        labels: (N,) integers in [0, C).

    Returns:
        (N,) values, at least 0 up to rounding.
    """
    return kl(logits, adversarial_logits) * log_complement(logits, labels).exp()


def mart_terms(logits: Tensor, adversarial_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """(N,) values of MART's two terms by name, unweighted; arguments as `misclassified_kl`.

    Args:
        logits: (N, C) finite, of the clean images, C at least 2.
        adversarial_logits: (N, C) finite.
        labels: (N,) integers in [0, C).
    """
    return {
        "boosted_cross_entropy": boosted_cross_entropy(adversarial_logits, labels),
        "consistency": misclassified_kl(logits, adversarial_logits, labels),
    }
