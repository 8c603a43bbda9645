"""corral: image classifiers whose decision is a cluster, trained, attacked, certified and reported honestly."""

__version__ = "0.1.0"

from corral import attacks, data, geometry, losses, models
from corral.api import load
from corral.evaluation import evaluate
from corral.report import report
from corral.training import train

__all__ = ["attacks", "data", "evaluate", "geometry", "load", "losses", "models", "report", "train"]
