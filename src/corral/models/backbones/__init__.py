"""Backbones by name, one file each: images to features."""

from corral.models.backbones.base import (
    BACKBONES,
    Backbone,
    Embedded,
    backbone_options,
    build_backbone,
    read_backbone,
    register_backbone,
)
from corral.models.backbones.convnet import ConvNet
from corral.models.backbones.lipschitz import LipschitzNet
from corral.models.backbones.mlp import MLP
from corral.models.backbones.resnet import ResNet
from corral.models.backbones.resnet_cifar import ResNetCifar
from corral.models.backbones.vgg import VGG
from corral.models.backbones.wideresnet import WideResNet

__all__ = [
    "BACKBONES",
    "MLP",
    "VGG",
    "Backbone",
    "ConvNet",
    "Embedded",
    "LipschitzNet",
    "ResNet",
    "ResNetCifar",
    "WideResNet",
    "backbone_options",
    "build_backbone",
    "read_backbone",
    "register_backbone",
]
