"""A scikit-learn estimator of every recipe, for pipelines, searches and joblib."""

from corral.sklearn.classifier import CorralClassifier

__all__ = ["CorralClassifier"]
