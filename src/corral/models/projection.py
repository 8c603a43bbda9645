"""The network between features and a contrastive loss, which is dropped after training."""

from torch import Tensor, nn


class Projection(nn.Module):
    """Linear, ReLU, Linear (SimCLR, Sec. 2.1): (N, d) features to (N, outputs) embeddings, by `hidden` or d values."""

    def __init__(self, features: int, *, hidden: int | None = None, outputs: int = 128) -> None:
        super().__init__()
        middle = features if hidden is None else hidden
        self.layers = nn.Sequential(nn.Linear(features, middle), nn.ReLU(), nn.Linear(middle, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(N, outputs) embeddings of (N, d) features."""
        embeddings: Tensor = self.layers(features)
        return embeddings
