"""corral: image classifiers whose decision is a cluster, trained, attacked, certified and reported honestly."""

from corral import attacks, certify, data, geometry, losses, models
from corral.api import load
from corral.audit.audit import audit
from corral.audit.diagnostics import diagnose
from corral.evaluation import evaluate
from corral.evaluation.certification import certify_run
from corral.models import Head
from corral.register import register
from corral.report import report
from corral.training import train
from corral.training.methods import Method
from corral.version import __version__

__all__ = [
    "Head",
    "Method",
    "__version__",
    "attacks",
    "audit",
    "certify",
    "certify_run",
    "data",
    "diagnose",
    "evaluate",
    "geometry",
    "load",
    "losses",
    "models",
    "register",
    "report",
    "train",
]
