"""Classifiers: backbone and head as one plain module, and the specs that build them."""

from corral.models.backbones import (
    BACKBONES,
    MLP,
    VGG,
    Backbone,
    ConvNet,
    Embedded,
    LipschitzNet,
    ResNet,
    ResNetCifar,
    ResNetImageNet,
    WideResNet,
)
from corral.models.classifier import Classifier
from corral.models.heads import HEADS, ClusterHead, Clusters, CosineHead, FeaturesHead, Head, LinearHead
from corral.models.linear_equivalent import linear_equivalent
from corral.models.lipschitz.isometries import HalfAbs, Shift, SpaceToDepth
from corral.models.lipschitz.orthogonal import Orthogonal, cayley
from corral.models.lipschitz.sll import SLL
from corral.models.published import PublishedHead, published_scores
from corral.models.spec import BackboneSpec, ModelSpec, build_classifier
from corral.models.variance import feature_variance

__all__ = [
    "BACKBONES",
    "HEADS",
    "MLP",
    "SLL",
    "VGG",
    "Backbone",
    "BackboneSpec",
    "Classifier",
    "ClusterHead",
    "Clusters",
    "ConvNet",
    "CosineHead",
    "Embedded",
    "FeaturesHead",
    "HalfAbs",
    "Head",
    "LinearHead",
    "LipschitzNet",
    "ModelSpec",
    "Orthogonal",
    "PublishedHead",
    "ResNet",
    "ResNetCifar",
    "ResNetImageNet",
    "Shift",
    "SpaceToDepth",
    "WideResNet",
    "build_classifier",
    "cayley",
    "feature_variance",
    "linear_equivalent",
    "published_scores",
]
