"""How many clusters the features of training images have: the silhouette against K (NCP-ACL, Fig. 2)."""

import torch
from torch import Tensor

from corral.errors import UsageError
from corral.evaluation.analyses.document import Analysis, Subject
from corral.geometry import choose_clusters
from corral.training.features import extract_features
from corral.training.methods.ncp_acl import RESTARTS
from corral.training.recipe_encoders import NcpAclConfig
from corral.training.recipe_files import load_recipe


def silhouettes(subject: Subject) -> Analysis:
    """Mean silhouette width, by the cosine distance, of spherical k-means with K clusters, over the candidates.

    Of the training images' features, in eval mode and without augmentation; exact, no pair is left out. The candidates
    are those of the recipe `ncp-acl` for the data set that are fewer than the images.

    Numbers: `best`, the K of the largest width; `width`, that width; `k K`, the width of each. Series: `k` and `width`.
    """
    features = directions_of(subject)
    known = candidates(subject.info.data, len(features))
    generator = torch.Generator().manual_seed(subject.seed)
    choice = choose_clusters(features, known, restarts=RESTARTS, generator=generator)
    ks = tuple(sorted(choice.widths))
    numbers = {"best": float(choice.k), "width": choice.widths[choice.k]}
    numbers |= {f"k {k}": choice.widths[k] for k in ks}
    series = {"k": tuple(map(float, ks)), "width": tuple(choice.widths[k] for k in ks)}
    return subject.found("silhouettes", numbers, series).model_copy(update={"n": len(features)})


def candidates(data: str, images: int) -> list[int]:
    """Numbers of clusters that the recipe `ncp-acl` has for a data set, where there are so many images.

    Raises:
        UsageError: too few images for any of them.
    """
    method = load_recipe("ncp-acl", data=data).method
    assert isinstance(method, NcpAclConfig)
    known = [k for k in method.clusters if k < images]
    if not known:
        raise UsageError(f"{images} training images are too few for {min(method.clusters)} clusters")
    return known


def directions_of(subject: Subject) -> Tensor:
    """(N, d) features of the training images.

    Raises:
        UsageError: one is zero and has no direction.
    """
    features = extract_features(subject.model, subject.train)
    if not bool(features.norm(dim=1).all()):
        raise UsageError(
            f"run of recipe {subject.info.recipe}: features of training images are zero, without direction"
        )
    return features
