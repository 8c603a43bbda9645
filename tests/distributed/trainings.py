"""Trainings that are made by one process and by two: small, with every kind of coupling between a batch's images."""

from pathlib import Path
from typing import Any

import corral

# A ball of this radius: the sign of a gradient near 0 is rounding's, and the adversary's steps would be.
TINY = {"threat.eps": 1e-7}
SMALL = TINY | {
    "data.train": 202,
    "training.epochs": 2,
    "training.batch_size": 81,
    "training.optimiser": "sgd",
    "training.learning_rate": 0.01,
}
# Four batches, for two processes.
MEASURED: dict[str, Any] = {"n": 32, "batch_size": 9, "progress": False}
RESNET = {"model.backbone": "resnet", "model.width": 4, "model.depth": 10}
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "at": ("at", SMALL | {"data.validation": 50, "training.clip_gradient": 1.0}),
    "at-resnet": ("at", SMALL | RESNET | {"method.inner.mode": "train"}),
    "corral": ("corral", SMALL | {"method.clusters": 3, "training.weight_averaging": 0.9}),
    "clustr": ("clustr-qtrades", SMALL),
    "simclr": ("simclr", SMALL | {"training.epochs": 1}),
    "ncp-acl": ("ncp-acl", SMALL | {"training.epochs": 1, "training.start": "simclr"}),
    "dynacl++": ("dynacl++", SMALL | {"training.epochs": 1, "training.start": "simclr"}),
    "slf": ("slf", SMALL | {"training.epochs": 1, "training.start": "simclr"}),
    "acl-dual-norm": ("acl", SMALL | RESNET | {"training.epochs": 1, "method.dual_norm": "adversarial"}),
    "mixed": ("at", SMALL | {"data.cutmix": True, "data.cutout": 2, "training.class_targets": 0.2}),
    "awp": ("trades", SMALL | {"training.epochs": 1, "training.perturbation": {"gamma": 0.01}}),
    "global-centroids": ("global-centroids", SMALL | {"training.epochs": 1}),
    "free-at": ("free-at", SMALL | {"training.epochs": 1, "method.replays": 2}),
    "streamed": (
        "at",
        TINY
        | {"data": "tree?size=16", "data.random_resized_crop": 0.3, "data.flip": True, "data.cutout": 2}
        | {"model.backbone": "convnet", "model.width": 2, "model.features": 8, "training.optimiser": "sgd"}
        | {"training.learning_rate": 0.01, "training.epochs": 2, "training.batch_size": 9},
    ),
    "certified": ("certified", SMALL | {"training.epochs": 1, "threat.eps": 0.3}),
}


def train(name: str, out: Path, **more: Any) -> None:
    """Make one of them; a start is the run of that name beside it, and so are its pictures, where it reads some."""
    recipe, settings = TRAININGS[name]
    settings = dict(settings)
    data = settings.pop("data", None)
    data = "digits" if data is None else f"folder:{out.parent / data}"
    if "training.start" in settings:
        settings["training.start"] = str(out.parent / settings["training.start"])
    corral.train(recipe, data=data, out=out, progress=False, loggers=(), **settings, **more)
