"""What can be read off a network's features: by a linear probe, and by clusters (ClusTR, App. B.1)."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from corral.attacks.objectives import published_nearest
from corral.evaluation.analyses.document import Analysis, Subject
from corral.geometry import class_kmeans, kmeans, squared_distances
from corral.models import ClusterHead, PublishedHead, feature_variance
from corral.training.features import extract_features

CLUSTERS = 2


def clusters_in_features(subject: Subject) -> Analysis:
    """Test accuracy of a linear probe and of clusters on the features of the training images, the backbone untouched.

    Numbers, fractions of the test images: `linear` (logistic regression), `nearest` and `soft` (two k-means centroids
    a class, the two rules of Eq. 4), `published` (the released code's float32 scores of the 10 nearest clusters),
    `majority` (as many clusters found without labels, each with the class that most of its members have).
    """
    classes = len(subject.info.classes)
    train, test = (extract_features(subject.model, images) for images in (subject.train, subject.test))
    labels, truth = subject.train.labels, subject.test.labels
    assert labels is not None
    assert truth is not None
    generator = torch.Generator(train.device).manual_seed(subject.seed)
    found = class_kmeans(train, labels, CLUSTERS, num_classes=classes, generator=generator)
    variance = feature_variance(train, labels, found.centroids, found.classes).clamp_min(1e-12)
    nearest, soft = (ClusterHead(found.centroids, found.classes, variance, rule=rule) for rule in ("nearest", "soft"))
    published = PublishedHead(soft, nearest=published_nearest(soft))
    probe = LogisticRegression(max_iter=2000)
    scale = train.std(0).clamp_min(1e-6)
    probe.fit((train / scale).cpu().numpy(), labels.cpu().numpy())
    linear = torch.from_numpy(probe.predict((test / scale).cpu().numpy())).to(truth.device)
    blind = kmeans(train, CLUSTERS * classes, restarts=3, generator=generator)
    votes = torch.zeros(CLUSTERS * classes, classes, device=train.device)
    votes.index_put_((blind.assignments, labels), torch.ones(len(labels), device=train.device), accumulate=True)
    members = squared_distances(test, blind.centroids).argmin(1)

    def accuracy(predicted: Tensor) -> float:
        return float((predicted == truth).double().mean())

    numbers = {
        "linear": accuracy(linear),
        "nearest": accuracy(nearest(test).argmax(1)),
        "soft": accuracy(soft(test).argmax(1)),
        "published": accuracy(published(test).argmax(1)),
        "majority": accuracy(votes.argmax(1)[members]),
    }
    return subject.found("features", numbers)
