"""corral: image classifiers whose decision is a cluster, trained, attacked, certified and reported honestly."""

__version__ = "0.1.0"
