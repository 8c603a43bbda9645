"""Backbones by name, one file each: images to features."""

from corral.models.backbones.adapted import Adapted, adapt
from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import (
    BACKBONES,
    Embedded,
    backbone_options,
    build_backbone,
    is_own,
    read_backbone,
    register_backbone,
    takes_any,
)
from corral.models.backbones.convnet import ConvNet
from corral.models.backbones.given import BackboneLike, bring_backbone, missing_words, named_backbone
from corral.models.backbones.lipschitz import LipschitzNet
from corral.models.backbones.mlp import MLP
from corral.models.backbones.resnet import ResNet
from corral.models.backbones.resnet_cifar import ResNetCifar
from corral.models.backbones.resnet_imagenet import ResNetImageNet
from corral.models.backbones.vgg import VGG
from corral.models.backbones.wideresnet import WideResNet

__all__ = [
    "BACKBONES",
    "MLP",
    "VGG",
    "Adapted",
    "Backbone",
    "BackboneLike",
    "ConvNet",
    "Embedded",
    "LipschitzNet",
    "ResNet",
    "ResNetCifar",
    "ResNetImageNet",
    "WideResNet",
    "adapt",
    "backbone_options",
    "bring_backbone",
    "build_backbone",
    "is_own",
    "missing_words",
    "named_backbone",
    "read_backbone",
    "register_backbone",
    "takes_any",
]
