"""Make a classifier by clusters of a trained network's features, certify it, and attack it; nothing is trained.

python examples/cluster_pretrained.py
"""

import torch
from torch import nn

import corral


def pretrained() -> nn.Module:
    """A network that was trained elsewhere; here on digits in a second. All its layers have Lipschitz constants."""
    torch.manual_seed(0)
    digits = corral.data.load("digits").train
    features = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    classifier = nn.Sequential(features, nn.Linear(16, 10))
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.3)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(classifier(digits.float()), digits.labels).backward()
        optimiser.step()
    return features.eval()


def main(n: int | None = None) -> None:
    """Cluster, measure, certify, save."""
    model = corral.cluster(pretrained(), "digits", clusters="silhouette")
    print(model.head)
    record = corral.evaluate(model, "digits", threat=("L2", 0.2), n=n)
    certificate = corral.certify(model, "digits", radii=(0.01, 0.05), n=n)
    print(record, certificate, sep="\n")
    model.save("clusters.safetensors")


if __name__ == "__main__":
    main()
