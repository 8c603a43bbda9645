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
    """Cross-entropy -sum_c p_c log p_adv,c between softmax probabilities (QTRADES, ClusTR's Eq. 5).

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.

    Returns:
        (N,) cross-entropies; gradients flow to both arguments.
    """
    return -(logits.softmax(1) * adversarial_logits.log_softmax(1)).sum(1)


@full_precision
def mse(logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """Mean over classes of (p - p_adv)^2 between softmax probabilities (the critique's ClusTR+QTRADES_MSE).

    Args:
        logits: (N, C) finite, of the clean images.
        adversarial_logits: (N, C) finite.

    Returns:
        (N,) errors in [0, 2 / C]; gradients flow to both arguments.
    """
    return (logits.softmax(1) - adversarial_logits.softmax(1)).square().mean(1)


@full_precision
def features_mse(features: Tensor, adversarial_features: Tensor) -> Tensor:
    """Mean over dimensions of (f - f_adv)^2: what the critique's code has where its formula has `mse`.

    Args:
        features: (N, d) of the clean images.
        adversarial_features: (N, d).

    Returns:
        (N,) errors, at least 0; gradients flow to both arguments.
    """
    return (features - adversarial_features).square().mean(1)
