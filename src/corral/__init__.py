"""corral: image classifiers whose decision is a cluster, trained, attacked, certified and reported honestly."""

from corral import attacks, data, geometry, losses, models
from corral.api import load
from corral.evaluation import evaluate
from corral.evaluation.audit import audit
from corral.evaluation.diagnostics import diagnose
from corral.report import report
from corral.training import train
from corral.version import __version__

__all__ = [
    "__version__",
    "attacks",
    "audit",
    "data",
    "diagnose",
    "evaluate",
    "geometry",
    "load",
    "losses",
    "models",
    "report",
    "train",
]
