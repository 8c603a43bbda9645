"""Exact answers that many tests share: closed forms and slow, obvious twins, none of which uses the code under test.

Distances are sums over coordinates, not products of matrices. Twins in torch keep the gradient.
"""

import math

import torch

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}


def linear_distances(weight, logits, y, norm="L2"):
    """(N,) float64 distances in the norm to the nearest other class's half-space of a linear model, without the box.

    Args:
        weight: (C, d) of the model.
        logits: (N, C) of the images.
        y: (N,) labels; a distance is negative where another class is decided.
        norm: of the perturbation.
    """
    weight, logits, found = weight.detach().double(), logits.detach().double(), []
    for row, label in zip(logits, y.tolist(), strict=True):
        rivals = [c for c in range(len(weight)) if c != label]
        lengths = [torch.linalg.vector_norm(weight[label] - weight[c], DUAL[norm]) for c in rivals]
        gaps = [float((row[label] - row[c]) / length) for c, length in zip(rivals, lengths, strict=True)]
        found.append(min(gaps))
    return torch.tensor(found, dtype=torch.float64)


def squared_distance(a, b):
    """Between two lists of coordinates, in Python floats."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def squared_distances(points, centroids):
    """(..., M) squared distances as differences."""
    return torch.stack([(points - centroid).square().sum(-1) for centroid in centroids], -1)


def nearest_of_class(feature, centroids, classes, label):
    """The index of a class's centroid that is nearest to one feature."""
    own = [k for k, c in enumerate(classes.tolist()) if c == label]
    return min(own, key=lambda k: squared_distance(feature.tolist(), centroids[k].tolist()))


def class_sums(features, centroids, classes, variance, rule="soft"):
    """(N, C) sums of exp(-d^2 / 2 sigma^2) over each class's clusters, Eq. 4 before it is normalised, in Python floats.

    Args:
        features: (N, d).
        centroids: (M, d).
        classes: (M,) integers.
        variance: sigma^2.
        rule: "soft" for all clusters, "nearest" for the best of each class, D for the D nearest of all.
    """
    rows = []
    for f in features.tolist():
        distances = [squared_distance(f, mu) for mu in centroids.tolist()]
        kept = sorted(range(len(distances)), key=distances.__getitem__)
        row = [0.0] * (int(classes.max()) + 1)
        for cluster in kept[:rule] if isinstance(rule, int) else kept:
            term, label = math.exp(-distances[cluster] / (2 * variance)), int(classes[cluster])
            row[label] = max(row[label], term) if rule == "nearest" else row[label] + term
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def class_probabilities(features, centroids, classes, variance, rule="soft"):
    """(N, C) probabilities of Eq. 4; arguments as `class_sums`."""
    sums = class_sums(features, centroids, classes, variance, rule)
    return sums / sums.sum(1, keepdim=True)


def class_scores(features, centroids, classes, variance, rule="soft"):
    """(N, C) log-space scores of Eq. 4 with gradient, by loops in float64; the rules "soft" and "nearest"."""
    pick = max if rule == "nearest" else lambda values: torch.stack(values).logsumexp(0)
    rows = []
    for f in features.double():
        scores: dict[int, list] = {}
        for mu, label in zip(centroids.double(), classes.tolist(), strict=True):
            scores.setdefault(label, []).append(-(f - mu).square().sum() / (2 * variance))
        rows.append(torch.stack([pick(scores[label]) for label in sorted(scores)]))
    return torch.stack(rows)


def memberships(features, centroids, classes, m=2.0):
    """(N, C) sums over a class of u_k = 1 / sum_j (d_k / d_j)^(2 / (m - 1)) (Bezdek et al. 1984), in Python floats."""
    rows = []
    for f in features.tolist():
        squares = [squared_distance(f, mu) for mu in centroids.tolist()]
        row = [0.0] * (int(classes.max()) + 1)
        for own, label in zip(squares, classes.tolist(), strict=True):
            row[label] += 1 / sum((own / other) ** (1 / (m - 1)) for other in squares)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def cluster_means(features, assigned, clusters, fallback=None):
    """(M, d) means of each cluster's members with gradient; the fallback's where there is none."""
    rows = []
    for cluster in range(clusters):
        members = [f for f, own in zip(features, assigned.tolist(), strict=True) if own == cluster]
        rows.append(torch.stack(members).mean(0) if members else fallback[cluster])
    return torch.stack(rows)


def cluster_variance(features, assigned, centroids):
    """The sum of squared distances to the assigned centroids over N - 1, with gradient."""
    pairs = zip(features, assigned.tolist(), strict=True)
    return sum((f - centroids[own]).square().sum() for f, own in pairs) / (len(features) - 1)


def magnet(features, assigned, centroids, classes, alpha, variance):
    """(N,) Magnet losses (ClusTR Eq. 3) with gradient, by loops in float64; 0 where there is no rival."""
    losses = []
    for f, own in zip(features.double(), assigned.tolist(), strict=True):
        scaled = [(f - mu).square().sum() / (2 * variance) for mu in centroids.double()]
        rivals = [(-d).exp() for d, label in zip(scaled, classes, strict=True) if label != classes[own]]
        push = sum(rivals).log() if rivals else -math.inf
        losses.append((alpha + scaled[own] + push).clamp(min=0))
    return torch.stack(losses)
