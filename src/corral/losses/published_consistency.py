"""Consistency terms with the arithmetic of the released code of ClusTR and its critique, only for reproducing it."""

import torch
from torch import Tensor
from torch.nn import functional

from corral.precision import full_precision


def score_probabilities(scores: Tensor) -> Tensor:
    """Eq. 4 (ClusTR) from exponentiated scores: each row over its sum.

    Args:
        scores: (N, C) non-negative, from `corral.models.PublishedHead`.

    Returns:
        (N, C) probabilities; all 0 in a row whose scores have all underflowed, as in the released code.
    """
    return functional.normalize(scores, p=1.0, dim=1)


@full_precision
def score_cross_entropy(scores: Tensor, adversarial_scores: Tensor) -> Tensor:
    """QTRADES as ClusTR's code has it: -sum_c p_c log q_c, p of Eq. 4 and q the softmax of the scores *as if logits*.

    The scores lie in [0, K], so q is never far from uniform and the term hardly differs between two answers.

    Args:
        scores: (N, C) exponentiated scores of the clean images.
        adversarial_scores: (N, C).

    Returns:
        (N,) cross-entropies; gradients flow to both arguments, none where the scores have underflowed.
    """
    return -(score_probabilities(scores) * adversarial_scores.log_softmax(1)).sum(1)


@full_precision
def score_kl(scores: Tensor, adversarial_scores: Tensor) -> Tensor:
    """(N,) KL(p || q), p and q of `score_cross_entropy` (the critique's ClusTR+TRADES_2 as its code has it).

    Non-negative up to rounding where p sums to 1. Arguments as `score_cross_entropy`.

    Args:
        scores: (N, C) exponentiated scores of the clean images.
        adversarial_scores: (N, C).
    """
    p = score_probabilities(scores)
    # As xlogy(p, p), whose gradient is infinite at p = 0, where a class outside the nearest clusters is.
    entropy = torch.where(p > 0, p * torch.where(p > 0, p, torch.ones_like(p)).log(), torch.zeros_like(p)).sum(1)
    return entropy - (p * adversarial_scores.log_softmax(1)).sum(1)


@full_precision
def score_mse(scores: Tensor, adversarial_scores: Tensor) -> Tensor:
    """(N,) means over classes of (p - p_adv)^2, both of Eq. 4, in [0, 2 / C]: the critique's formula on such scores.

    Arguments as `score_cross_entropy`.

    Args:
        scores: (N, C) exponentiated scores of the clean images.
        adversarial_scores: (N, C).
    """
    return (score_probabilities(scores) - score_probabilities(adversarial_scores)).square().mean(1)


@full_precision
def unlogged_kl(logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """(1 / C) sum_c p_c (log p_c - p_adv,c): a KL divergence whose second logarithm is missing.

    ClusTR's released baseline QTRADES has it where the paper has a cross-entropy: its `kl_div`, which expects
    log-probabilities, gets probabilities, and averages over the elements.

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.

    Returns:
        (N,) values, at most 0; gradients flow to both arguments.
    """
    log_clean = logits.log_softmax(1)
    return (log_clean.exp() * (log_clean - adversarial_logits.softmax(1))).mean(1)
