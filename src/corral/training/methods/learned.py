"""Clusters that are learned: a map from features to logits that training moves, no longer fitted by k-means."""

import torch
from torch import Tensor, nn

from corral.models import ClusterHead


class LearnedClusters:
    """Centroids and variance as parameters: the affine map mu / sigma^2 of their logits, and log sigma^2.

    The map's scale suits an optimiser, that of centroids far apart does not.

    Args:
        clusters: M.
        features: d.
        device: where they live.
    """

    def __init__(self, clusters: int, features: int, device: torch.device) -> None:
        self.weight = nn.Parameter(torch.zeros(clusters, features, device=device))
        self.log_variance = nn.Parameter(torch.zeros((), device=device))

    def begin(self, head: ClusterHead) -> None:
        """Start at a head's clusters."""
        with torch.no_grad():
            self.log_variance.copy_(head.variance.log())
            self.weight.copy_(head.centroids / head.variance)

    def clusters(self) -> tuple[Tensor, Tensor]:
        """(M, d) centroids and the scalar variance, with gradient to the parameters."""
        variance = self.log_variance.exp()
        return self.weight * variance, variance

    def become(self, head: ClusterHead) -> float:
        """Make them a head's clusters; returns the variance."""
        centroids, variance = self.clusters()
        head.refit(centroids, head.classes, variance)
        return float(variance.detach())

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser steps on."""
        return [self.weight, self.log_variance]

    def tensors(self) -> dict[str, Tensor]:
        """The parameters, to be saved."""
        return {"weight": self.weight, "log_variance": self.log_variance}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.log_variance.copy_(tensors["log_variance"])
