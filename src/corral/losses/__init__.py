"""Losses: pure functions of tensors, one number an example."""

from corral.losses.certified import annealed_cross_entropy, certified_scores
from corral.losses.clustering import (
    batch_centroids,
    batch_variance,
    clustering_loss,
    hinge,
    magnet,
    magnet_batch,
    magnet_open,
    nearest_own,
    nearest_rival,
    pull_assigned,
    pull_nearest,
    push_nearest,
    push_soft,
)
from corral.losses.consistency import features_mse, kl, mse, soft_cross_entropy
from corral.losses.contrastive import contrastive, negative_cosine, nt_xent
from corral.losses.decoupled import ikl_terms, pairwise_mse
from corral.losses.invariance import adversarial_invariance, standard_invariance
from corral.losses.mat import bibo_distance, ftc, mat_terms, mmc, so
from corral.losses.misclassified import boosted_cross_entropy, log_complement, mart_terms, misclassified_kl
from corral.losses.nuclear import nuclear_norm
from corral.losses.published import magnet_batch_published, magnet_published
from corral.losses.published_consistency import (
    score_cross_entropy,
    score_kl,
    score_mse,
    score_probabilities,
    unlogged_kl,
)
from corral.losses.terms import weighted

__all__ = [
    "adversarial_invariance",
    "annealed_cross_entropy",
    "batch_centroids",
    "batch_variance",
    "bibo_distance",
    "boosted_cross_entropy",
    "certified_scores",
    "clustering_loss",
    "contrastive",
    "features_mse",
    "ftc",
    "hinge",
    "ikl_terms",
    "kl",
    "log_complement",
    "magnet",
    "magnet_batch",
    "magnet_batch_published",
    "magnet_open",
    "magnet_published",
    "mart_terms",
    "mat_terms",
    "misclassified_kl",
    "mmc",
    "mse",
    "nearest_own",
    "nearest_rival",
    "negative_cosine",
    "nt_xent",
    "nuclear_norm",
    "pairwise_mse",
    "pull_assigned",
    "pull_nearest",
    "push_nearest",
    "push_soft",
    "score_cross_entropy",
    "score_kl",
    "score_mse",
    "score_probabilities",
    "so",
    "soft_cross_entropy",
    "standard_invariance",
    "unlogged_kl",
    "weighted",
]

# What went, with what says the same.
_GONE = {
    "magnet_full": "give `magnet` the clusters of `nearest_own`",
    "cluster_cross_entropy": "take the cross-entropy of `ClusterHead`'s logits, or of `geometry.class_scores`",
}


def __getattr__(name: str) -> object:
    remedy = f": {_GONE[name]}" if name in _GONE else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{remedy}")
