"""corral's method in a loop of your own: `python examples/own_loop.py` trains and attacks a network on digits."""

import torch
from torch.nn.functional import cross_entropy

import corral
from corral.geometry import class_kmeans
from corral.losses import batch_centroids, batch_variance
from corral.models import feature_variance
from corral.training import extract_features


def refit(model, images, clusters, generator=None):
    """Put the clusters of every class's features into the head, after an epoch; (N,) the cluster of each image."""
    features, labels = extract_features(model, images), images.labels
    found = class_kmeans(features, labels, clusters, num_classes=model.num_classes, generator=generator)
    model.head.refit(found.centroids, found.classes, feature_variance(features, labels, found.centroids, found.classes))
    return found.assignments


def batch_loss(model, x, y, assigned, *, eps, generator=None):
    """Cross-entropy of adversarial images on the clusters of the batch's clean features, attacked there."""
    clean, head = model.features(x), model.head
    centroids = batch_centroids(clean, assigned, len(head.centroids), fallback=head.centroids)
    variance = batch_variance(clean, assigned, centroids)
    attacked = model.with_head(head.with_centroids(centroids.detach(), variance.detach()))
    x_adv = corral.attacks.pgd(attacked, x, y, eps=eps, steps=5, step_size=eps / 4, keep="last", generator=generator)
    return cross_entropy(head.with_centroids(centroids, variance)(model.features(x_adv)), y)


def fit(model, images, *, clusters=1, eps=0.1, epochs=1, batch_size=60, seed=0):
    """Train a classifier with a cluster head, as the recipe "corral" does on small gray images."""
    order, noise = (torch.Generator(images.pixels.device).manual_seed(seed + more) for more in (0, 1_000_003))
    temperature = {"params": [model.head.log_temperature.requires_grad_()], "lr": 2e-2}
    optimiser = torch.optim.Adam([{"params": model.backbone.parameters()}, temperature], lr=2e-3)
    assigned = refit(model, images, clusters, order)
    for _ in range(epochs):
        model.train()
        for i in corral.data.shuffled(len(images), batch_size, generator=order, device=images.pixels.device):
            loss = batch_loss(model, images.float(i), images.labels[i], assigned[i], eps=eps, generator=noise)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assigned = refit(model, images, clusters, order)


def trained(epochs=3):
    """A network of one's own on digits: `corral evaluate own_loop.py:trained --data digits --norm Linf --eps 0.1`."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    digits = corral.data.load("digits")
    model = corral.cluster(network, digits, clusters=2, progress=False)
    fit(model, digits.train, clusters=2, epochs=epochs)
    return model.eval()


if __name__ == "__main__":
    print(corral.evaluate(trained(), "digits", threat=("Linf", 0.1)))
