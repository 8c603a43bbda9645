"""Audit a network of timm's: are its gradients masked, and what does AutoAttack leave of it?

python examples/audit_timm.py
"""

import torch
from torch import nn

import corral


class Small(nn.Module):
    """A network with timm's interface, for where timm is not installed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2))
        self.fc = nn.Linear(32, 10)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 32, h, w) maps."""
        return self.stem(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 10) logits."""
        return self.fc(self.forward_features(x).relu().mean((2, 3)))


def network(name: str = "resnet10t") -> nn.Module:
    """A network for gray images of ten classes."""
    try:
        import timm
    except ImportError:
        return Small()
    return timm.create_model(name, num_classes=10, in_chans=1)


def main(epochs: int = 5, n: int | None = None, minutes: float = 2.0) -> None:
    """Train the network without attacks, as most networks are, and audit it."""
    data, net = corral.data.load("digits"), network()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for i in corral.data.shuffled(len(data.train), 100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(data.train.float(i)), data.train.labels[i]).backward()
            optimiser.step()
    found = corral.audit(net.eval(), data, eps=0.1, n=n, minutes=minutes)
    print(f"clean {found.clean:.3f}, under AutoAttack at Linf 0.1 {found.robust:.3f}, verdict: {found.verdict}")


if __name__ == "__main__":
    main()
