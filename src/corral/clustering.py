"""`corral.cluster`: any trained network as a classifier by clusters of its features, without a step of training."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from corral.data import AnyData, DataSet, Images, load, own, random_subset, stratified_subset
from corral.devices import choose_device
from corral.errors import UsageError
from corral.geometry.silhouette import cosine_silhouette
from corral.models import Classifier, ClusterHead, ModelSpec
from corral.models.backbones import BACKBONES, BackboneLike, build_backbone, named_backbone
from corral.models.backbones.base import Given
from corral.models.heads import HeadRule
from corral.models.spec import BackboneSpec, head_spec
from corral.models.statistics import Statistics, channel_statistics
from corral.progress import Progress
from corral.targets import load_target
from corral.training.features import extract_features, require_differing

# Clusters a class that a silhouette chooses among.
CANDIDATES = tuple(range(1, 9))
RESTARTS = 10


def cluster(
    backbone: BackboneLike | PathLike[str],
    data: AnyData,
    *,
    clusters: int | Sequence[int] | str = 1,
    rule: HeadRule = "soft",
    features: str | None = None,
    normalise: str | Statistics | None = None,
    n: int | None = None,
    restarts: int = RESTARTS,
    seed: int = 0,
    path: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Classifier:
    """Make a classifier by clusters of a trained network's features: k-means of every class, and their variance.

    The network is not trained and not changed: the classifier has a copy. Attacks, certificates, analyses and exports
    take it as any other; `Classifier.save` keeps it.

    Args:
        backbone: a network, whose features `corral.models.backbones.adapt` finds; a function or class that makes one;
            "file.py:function"; a run folder, whose features are clustered anew; or a `Classifier`.
        data: as `corral.data.load` takes them; the clusters are of the training images, of (x, y) of all.
        clusters: of each class, one number or one a class; "silhouette" takes the number from 1 to 8 of the largest
            mean silhouette width by the cosine distance, the smallest of equal ones.
        rule: how clusters decide, as `ClusterHead` has it: "soft", "nearest", a number of nearest ones, or "fuzzy".
        features: the layer whose output are the features, such as "layer4".
        normalise: what the network's inputs are normalised by: "imagenet", "M,M,M/S,S,S" or (means, deviations); None
            where it takes pixels in [0, 1]. Runs and classifiers have their own.
        n: a class-balanced subset of this many training images; default all.
        restarts: of k-means.
        seed: of k-means' starts.
        path: the folder that a target's Python code is imported from.
        data_root: folder of the data-set files.
        device: where to compute; default a GPU if there is one.
        progress: show progress on stderr.

    Returns:
        The classifier, in eval mode, on the device.

    Raises:
        UsageError: an impossible number of clusters, rule, layer or normalisation, or no network.
        CorralError: features that are not finite or all the same, or data that are absent or damaged.
    """
    say = Progress("", 0, "", enabled=progress).say
    chosen = choose_device(device)
    classes, images = _images(data, data_root)
    if n is not None and n != len(images):
        images = (random_subset if images.labels is None else stratified_subset)(images, n, seed=0)
    try:
        model = _featured(backbone, images.shape, features, normalise, path, chosen)
    except ValueError as error:
        raise UsageError(f"{_name(backbone)}: {error}") from error
    say(f"{_name(backbone)}: {model.features_dim} features, {getattr(model.backbone, 'features_source', '')}")
    found, labels = extract_features(model, images), images.labels
    require_differing(found, _name(backbone))
    assert labels is not None
    labels = labels.to(found.device)
    head = _fitted(found, labels, len(classes), clusters, rule, restarts, seed)
    say(f"{_name(backbone)}: {len(head.centroids)} clusters of {len(images):,} images, variance {head.variance:.4g}")
    made = Classifier(
        model.backbone, head, model.normalisation.mean, model.normalisation.std, image_size=images.shape[1:]
    )
    made.class_names = classes
    made.spec = None if model.spec is None else _described(model.spec, head, len(classes))
    return made.to(chosen).eval()


def _fitted(
    features: Tensor,
    labels: Tensor,
    classes: int,
    clusters: int | Sequence[int] | str,
    rule: HeadRule,
    restarts: int,
    seed: int,
) -> ClusterHead:
    """The head of the number of clusters that was asked for, or that the silhouette chooses."""

    def fit(count: int | Sequence[int]) -> ClusterHead:
        generator = torch.Generator(features.device).manual_seed(seed)
        return ClusterHead.fit(
            features, labels, clusters=count, rule=rule, num_classes=classes, restarts=restarts, generator=generator
        )

    try:
        if not isinstance(clusters, str):
            return fit(clusters)
        if clusters != "silhouette":
            raise UsageError(f"clusters must be a number, one a class, or 'silhouette', found {clusters!r}")
        most = int(torch.bincount(labels, minlength=classes).min())
        known = [count for count in CANDIDATES if count <= most]
        if isinstance(rule, int):  # which keeps no more than there are
            known = [count for count in known if count * classes >= rule]
        heads = {count: fit(count) for count in known}
        widths = {count: _width(features, labels, head) for count, head in heads.items()}
        return heads[max(widths, key=lambda count: (widths[count], -count))]
    except ValueError as error:
        raise UsageError(f"clusters: {error}") from error


def _width(features: Tensor, labels: Tensor, head: ClusterHead) -> float:
    """The mean silhouette width of features in the nearest clusters of their classes."""
    distances = torch.cdist(features, head.centroids)
    own = distances.masked_fill(labels.unsqueeze(1) != head.classes, torch.inf).argmin(1)
    return float(cosine_silhouette(features, own).mean())


def _images(data: AnyData, root: str | Path | None) -> tuple[tuple[str, ...], Images]:
    """The class names and the training images; of data without a test part all."""
    found = data if isinstance(data, DataSet) else load(data, root=root) if isinstance(data, str) else own(data)
    if isinstance(found, DataSet):
        return found.classes, found.train
    return found.measured.classes, found.measured.test


def _featured(
    backbone: BackboneLike | PathLike[str],
    shape: tuple[int, int, int],
    layer: str | None,
    normalise: str | Statistics | None,
    path: str | Path | None,
    device: torch.device,
) -> Classifier:
    """A classifier, of whatever head, whose features are to be clustered."""
    named = isinstance(backbone, str) and (backbone in BACKBONES or ":" in backbone)
    given: object = backbone
    if isinstance(backbone, str | PathLike) and not named:
        given = load_target(str(backbone), path=path, device=device).model
    if isinstance(given, Classifier):
        if layer is not None or normalise is not None:
            raise UsageError("a run and a classifier have their features and their normalisation: leave the others out")
        return cast(Classifier, Given(given)()).to(device)
    if isinstance(given, nn.Module) and not isinstance(backbone, nn.Module):
        raise UsageError(f"{backbone}: a file of a program, whose features are not known; give code that makes it")
    name = named_backbone(given)  # type: ignore[arg-type]
    spec = BackboneSpec.model_validate({"name": name} | ({} if layer is None else {"layer": layer}))
    net = build_backbone(name, shape, spec.options())
    mean, std = channel_statistics(normalise, shape[0])
    described = ModelSpec(backbone=spec, image_shape=shape, num_classes=2, mean=mean, std=std, head={"name": "linear"})
    model = described.build_head(net.features_dim)
    found = Classifier(net, model, mean, std, image_size=shape[1:])
    found.spec = described
    return found.to(device).eval()


def _described(spec: ModelSpec, head: ClusterHead, classes: int) -> ModelSpec:
    return ModelSpec.model_validate(dict(spec) | {"head": head_spec(head), "num_classes": classes})


def _name(backbone: object) -> str:
    return (
        str(backbone)
        if isinstance(backbone, str | PathLike)
        else getattr(backbone, "__name__", type(backbone).__name__)
    )
