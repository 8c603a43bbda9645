"""Consistency of the answers on an image and on its adversarial version: TRADES, QTRADES, mean squared errors."""

from torch import Tensor

from corral.precision import full_precision


@full_precision
def kl(logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(p || p_adv) between softmax probabilities (TRADES, Zhang et al. 2019, Eq. 5).

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.

    Returns:
        (N,) divergences, non-negative up to rounding; gradients flow to both arguments.
    """
    log_clean, log_adversarial = logits.log_softmax(1), adversarial_logits.log_softmax(1)
    return (log_clean.exp() * (log_clean - log_adversarial)).sum(1)


@full_precision
def soft_cross_entropy(logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """(N,) cross-entropies -sum_c p_c log p_adv,c of softmax probabilities (QTRADES, ClusTR's Eq. 5); else as `kl`.

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.
    """
    return -(logits.softmax(1) * adversarial_logits.log_softmax(1)).sum(1)


@full_precision
def mse(logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """(N,) means over classes of (p - p_adv)^2, in [0, 2 / C] (the critique's ClusTR+QTRADES_MSE); else as `kl`.

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.
    """
    return (logits.softmax(1) - adversarial_logits.softmax(1)).square().mean(1)


@full_precision
def features_mse(features: Tensor, adversarial_features: Tensor) -> Tensor:
    """(N,) means over dimensions of (f - f_adv)^2 of (N, d) features: in the critique's code for `mse`.

    Args:
        features: (N, d) of the clean images.
        adversarial_features: (N, d).
    """
    return (features - adversarial_features).square().mean(1)
