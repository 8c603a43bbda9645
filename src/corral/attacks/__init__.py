"""Attacks: functions of a model and images that return adversarial images."""

import warnings

from corral.attacks.adaptive import ensemble_adaptive
from corral.attacks.apgd.attack import apgd
from corral.attacks.autoattack import autoattack
from corral.attacks.balls import NORMS, Norm
from corral.attacks.carlini_wagner import carlini_wagner
from corral.attacks.ddn import ddn
from corral.attacks.deepfool import deepfool
from corral.attacks.fab.attack import fab, fab_minimal
from corral.attacks.fgsm import fgsm
from corral.attacks.mi_fgsm import mi_fgsm
from corral.attacks.objectives import ObjectiveName
from corral.attacks.pgd import pgd
from corral.attacks.presets import (
    LOG_20,
    MARGIN_20,
    PRESETS,
    PUBLISHED_20,
    PUBLISHED_20_LOG,
    PUBLISHED_100,
    PUBLISHED_100_LOG,
    PUBLISHED_100_MAGNET,
    PgdPreset,
)
from corral.attacks.square.attack import square

__all__ = [
    "LOG_20",
    "MARGIN_20",
    "NORMS",
    "PRESETS",
    "PUBLISHED_20",
    "PUBLISHED_20_LOG",
    "PUBLISHED_100",
    "PUBLISHED_100_LOG",
    "PUBLISHED_100_MAGNET",
    "Norm",
    "ObjectiveName",
    "PgdPreset",
    "apgd",
    "autoattack",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "ensemble_adaptive",
    "fab",
    "fab_minimal",
    "fgsm",
    "mi_fgsm",
    "pgd",
    "square",
]


def __getattr__(name: str) -> object:
    if name == "PROTOCOLS":
        warnings.warn("corral.attacks.PROTOCOLS is corral.attacks.PRESETS now", FutureWarning, stacklevel=2)
        return PRESETS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
