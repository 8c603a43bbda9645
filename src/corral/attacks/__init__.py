"""Attacks: functions of a model and images that return adversarial images."""

from corral.attacks.balls import NORMS, Norm
from corral.attacks.objectives import ObjectiveName
from corral.attacks.pgd import pgd
from corral.attacks.presets import (
    LOG_20,
    MARGIN_20,
    PROTOCOLS,
    PUBLISHED_20,
    PUBLISHED_20_LOG,
    PUBLISHED_100,
    PUBLISHED_100_LOG,
    PgdProtocol,
)

__all__ = [
    "LOG_20",
    "MARGIN_20",
    "NORMS",
    "PROTOCOLS",
    "PUBLISHED_20",
    "PUBLISHED_20_LOG",
    "PUBLISHED_100",
    "PUBLISHED_100_LOG",
    "Norm",
    "ObjectiveName",
    "PgdProtocol",
    "pgd",
]
