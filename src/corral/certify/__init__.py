"""Radii around cluster classifiers' features within which the decision cannot change."""

from corral.certify.critique import CritiqueBounds, critique_bounds

__all__ = ["CritiqueBounds", "critique_bounds"]
