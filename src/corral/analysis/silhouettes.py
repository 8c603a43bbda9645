"""How many clusters the features of training images have: the silhouette against K (NCP-ACL, Fig. 2)."""

import torch
from torch import Tensor

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel
from corral.errors import CorralError, UsageError
from corral.geometry import Choice, choose_clusters
from corral.training.features import extract_features, require_differing
from corral.training.methods.ncp_acl import RESTARTS
from corral.training.recipes.files import chosen_sets, load_recipe


@register_analysis(
    "silhouettes",
    short="Silhouette",
    title="How many clusters do the features have?",
    text="Mean silhouette width (cosine distance, exact) of spherical k-means of the training images' features, "
    "against the number of clusters. NCP-ACL takes the K of the largest width; where the curve is flat, the choice "
    "says little.",
    columns=(("best K", "best", 1.0, 0), ("its width", "width", 1.0, 3)),
    unit="widths in [-1, 1]; mean ± sd over seeds",
    images="train",
)
def silhouettes(subject: AnalysedModel) -> Found:
    """Mean silhouette width, by the cosine distance, of spherical k-means with K clusters, over the candidates.

    Of the training images' features, in eval mode and without augmentation; exact, no pair is left out. The candidates
    are those of the recipe `ncp-acl` for the data set, fewer than the images and with members in every cluster.

    Numbers: `best`, the K of the largest width; `width`, that width; `k K`, the width of each. Series: `k` and `width`.
    """
    features = directions_of(subject)
    choice = choice_for(subject, features, torch.Generator().manual_seed(subject.seed))
    ks = tuple(sorted(choice.widths))
    numbers = {"best": float(choice.k), "width": choice.widths[choice.k]}
    numbers |= {f"k {k}": choice.widths[k] for k in ks}
    series = {"k": tuple(map(float, ks)), "width": tuple(choice.widths[k] for k in ks)}
    return Found(numbers, series, n=len(features))


def candidates(data: str, images: int) -> list[int]:
    """Numbers of clusters that the recipe `ncp-acl` has for a data set, or else for its own, of so many images.

    Raises:
        UsageError: too few images for any of them.
    """
    known_to = chosen_sets("ncp-acl")
    clusters = load_recipe("ncp-acl", data=data if data in known_to else None).method.model_dump()["clusters"]
    known = [k for k in clusters if k < images]
    if not known:
        raise UsageError(f"{images} training images are too few for {min(clusters)} clusters")
    return known


def directions_of(subject: AnalysedModel) -> Tensor:
    """(N, d) features of the training images.

    Raises:
        CorralError: they are not finite, all the same, or one is zero and has no direction.
    """
    features = extract_features(subject.model, subject.train)
    run = subject.name
    require_differing(features, run)
    if not bool(features.norm(dim=1).all()):
        raise CorralError(
            f"{run}: features of training images are zero, without direction: analyse another run, or train this one "
            "again at a lower learning rate"
        )
    return features


def choice_for(subject: AnalysedModel, features: Tensor, generator: torch.Generator) -> Choice:
    """The number of clusters of the largest silhouette.

    Raises:
        CorralError: the features have fewer directions than any candidate has clusters.
    """
    known = candidates(subject.data, len(features))
    try:
        return choose_clusters(features, known, restarts=RESTARTS, generator=generator)
    except ValueError as error:
        raise CorralError(f"{subject.name}: {error}") from error
