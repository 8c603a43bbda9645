"""What can be read off a network's features: by a linear probe, and by clusters (ClusTR, App. B.1)."""

import torch

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labels_of
from corral.attacks.objectives import published_nearest
from corral.geometry import class_kmeans, kmeans, squared_distances
from corral.models import ClusterHead, PublishedHead, feature_variance
from corral.training.features import extract_features

CLUSTERS = 2


@register_analysis(
    "features",
    short="Read off the features",
    title="What clusters read off the features",
    text="Test accuracy on the frozen features of each run: by logistic regression, by k-means centroids of the "
    "training features (two a class), and by as many clusters found without labels, each given the class of most "
    "of its members.",
    columns=(
        ("linear probe", "linear", 100.0, 1),
        ("2 centroids a class, nearest", "nearest", 100.0, 1),
        ("the same, soft (Eq. 4)", "soft", 100.0, 1),
        ("the same, released float32 scores", "published", 100.0, 1),
        ("k-means without labels, majority class", "majority", 100.0, 1),
    ),
    unit="percent of the test images; mean ± sd over seeds",
    page=60,
)
def clusters_in_features(subject: AnalysedModel) -> Found:
    """Test accuracy of a linear probe and of clusters on the features of the training images, the backbone untouched.

    Numbers, fractions of the test images: `linear` (logistic regression), `nearest` and `soft` (two k-means centroids
    a class, the two rules of Eq. 4), `published` (the released code's float32 scores of the 10 nearest clusters),
    `majority` (as many clusters found without labels, each with the class that most of its members have).
    """
    from sklearn.linear_model import LogisticRegression

    classes = len(subject.classes)
    train, test = (extract_features(subject.model, images) for images in (subject.train, subject.test))
    labels, truth = labels_of(subject.train), labels_of(subject.test)
    fewest, label = torch.bincount(labels, minlength=classes).min(0)
    if int(fewest) < CLUSTERS:
        reason = f"class {subject.classes[int(label)]} has {int(fewest)} training images, fewer than {CLUSTERS}"
        return Found({}, absent=dict.fromkeys(("linear", "nearest", "soft", "published", "majority"), reason))
    generator = torch.Generator(train.device).manual_seed(subject.seed)
    found = class_kmeans(train, labels, CLUSTERS, num_classes=classes, generator=generator)
    variance = feature_variance(train, labels, found.centroids, found.classes).clamp_min(1e-12)
    nearest, soft = (ClusterHead(found.centroids, found.classes, variance, rule=rule) for rule in ("nearest", "soft"))
    published = PublishedHead(soft, nearest=published_nearest(soft.clusters))
    probe = LogisticRegression(max_iter=2000)
    scale = train.std(0).clamp_min(1e-6)
    probe.fit((train / scale).cpu().numpy(), labels.cpu().numpy())
    linear = torch.from_numpy(probe.predict((test / scale).cpu().numpy())).to(truth.device)
    blind = kmeans(train, CLUSTERS * classes, restarts=3, generator=generator)
    votes = torch.zeros(CLUSTERS * classes, classes, device=train.device)
    votes.index_put_((blind.assignments, labels), torch.ones(len(labels), device=train.device), accumulate=True)
    members = squared_distances(test, blind.centroids).argmin(1)
    heads = {"nearest": nearest, "soft": soft, "published": published}
    decided = {name: head(test).argmax(1) for name, head in heads.items()}
    decided = {"linear": linear, **decided, "majority": votes.argmax(1)[members]}
    return Found({name: float((predicted == truth).double().mean()) for name, predicted in decided.items()})
