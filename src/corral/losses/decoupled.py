"""The decoupled KL divergence and its improvement, DKL and IKL (Cui et al. 2024): differences of pairs of logits."""

from torch import Tensor

from corral.losses.consistency import soft_cross_entropy
from corral.precision import full_precision


@full_precision
def pairwise_mse(logits: Tensor, adversarial_logits: Tensor, weights: Tensor) -> Tensor:
    """(1 / 4) sum_jk w_j w_k ((o_j - o_k) - (o'_j - o'_k))^2: the weighted squared error of all pairwise differences.

    With d = o - o' and W = sum_j w_j it is (W / 2) sum_j w_j (d_j - m)^2, m = sum_j w_j d_j / W: W^2 / 2 times the
    variance of d under w / W, so that no (N, C, C) tensor is made. Shifts of either image's logits leave it as it is.

    Args:
        logits: (N, C) finite, o of the clean images.
        adversarial_logits: (N, C) finite, o'.
        weights: (N, C) at least 0, each row with a sum above 0; rows of probabilities in DKL and IKL.

    Returns:
        (N,) values, at least 0; gradients flow to every argument that is not detached.
    """
    apart = logits - adversarial_logits
    total = weights.sum(1, keepdim=True)
    centred = apart - (weights * apart).sum(1, keepdim=True) / total
    return total.squeeze(1) * (weights * centred.square()).sum(1) / 2


def ikl_terms(logits: Tensor, adversarial_logits: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The terms of the improved KL divergence by name (Cui et al. 2024), unweighted.

    "pairwise_mse" moves both images' logits, weighted by those of the image's class, `weights` (N, C), without a
    gradient to them; "consistency" is the cross-entropy -sum_c p_c log p_adv,c, which moves the adversarial ones alone.
    The paper's Theorem 1: with the weights p of the image itself and the adversarial logits of the first term detached
    too (DKL), the sum has the gradient of KL(p || p_adv).

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.
        weights: (N, C) of the image's class, without gradient.

    Returns:
        (N,) values of each term.
    """
    return {
        "pairwise_mse": pairwise_mse(logits, adversarial_logits, weights.detach()),
        "consistency": soft_cross_entropy(logits.detach(), adversarial_logits),
    }
