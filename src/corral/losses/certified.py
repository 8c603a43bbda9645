"""Cross-entropy of the worst features within a radius, in closed form: training for certified accuracy."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from corral.geometry import class_index, class_scores, cluster_scores
from corral.precision import full_precision


@full_precision
def certified_scores(
    features: Tensor,
    labels: Tensor,
    centroids: Tensor,
    classes: Tensor,
    variance: Tensor | float,
    *,
    radius: float,
    rule: Literal["soft", "nearest"] = "soft",
    index: Tensor | None = None,
) -> Tensor:
    """Class scores (Eq. 4 in log space) with every rival's raised by what a move of the features could gain on the own.

    The soft own score loses at most abar·D by a move D (convexity), abar the softmax-weighted mean of the own
    a = mu / sigma^2 at z, and a rival's terms then gain at most ||a_rk - abar|| radius; under the rule "nearest" the
    nearest own centroid stands for abar. So for ||D|| <= radius every difference of a rival's score and the own one at
    z + D is at most its difference here: the cross-entropy of these scores bounds that of all features in the ball, and
    where the label's score is the largest the certificate (`soft_radius`; "fast" `nearest_radius`) reaches the radius.
    With one cluster a class this is Lipschitz-margin training (Tsuzuku et al., NeurIPS 2018, Algorithm 1).

    Args:
        features: (N, d).
        labels: (N,) integers in [0, C).
        centroids: (M, d).
        classes: (M,) integers, every class of 0 ... C - 1.
        variance: sigma^2 > 0.
        radius: in feature space, >= 0.
        rule: "soft" or "nearest".
        index: `class_index(classes)` where it is at hand; making it stops the device.

    Returns:
        (N, C) scores, the label's as it is; with gradient to features, centroids and variance.

    Raises:
        ValueError: another rule, or a negative radius.
    """
    if rule not in ("soft", "nearest"):
        raise ValueError(f"rule must be 'soft' or 'nearest', found {rule!r}")
    if radius < 0:
        raise ValueError(f"radius must be at least 0, found {radius}")
    if index is None:
        index = class_index(classes).to(features.device)
    terms = cluster_scores(features, centroids, variance)
    rivals = classes != labels.unsqueeze(1)
    own = terms.masked_fill(rivals, -torch.inf)
    if rule == "soft":
        anchor = own.softmax(1) @ centroids
    else:
        anchor = centroids[own.argmax(1)]
    squares = (centroids - anchor.unsqueeze(1)).square().sum(2)
    # The label's own terms are not raised, and at a length of 0 a root has no gradient.
    raised = rivals & (squares > 0)
    lengths = torch.where(raised, torch.where(raised, squares, 1.0).sqrt(), 0.0)
    return class_scores(terms + lengths * (radius / variance), index, rule)


def annealed_cross_entropy(logits: Tensor, labels: Tensor, *, annealing: float = 0.0) -> Tensor:
    """(N,) losses -(1 - p)^annealing log p of the labels' probabilities p (logit annealing, Lai et al., ICML 2025).

    Images that are safe already lose their weight, so that a network of limited capacity spends it on the others;
    annealing 0 is cross-entropy.

    Args:
        logits: (N, C).
        labels: (N,) integers in [0, C).
        annealing: beta >= 0.

    Raises:
        ValueError: a negative annealing.
    """
    if annealing < 0:
        raise ValueError(f"annealing must be at least 0, found {annealing}")
    losses = F.cross_entropy(logits, labels, reduction="none")
    if annealing == 0:
        return losses
    # 1 - p without cancelling where p is near 1; a loss of 0 has the slope 0, not that of a power of 0.
    return (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny) ** annealing * losses
