"""Measurements of a trained run that no attack's accuracy shows, each kept as a small document."""

from corral.evaluation.analyses.document import Analysis, AnalysisName, Subject, measured, read_analysis
from corral.evaluation.analyses.kept import Kept
from corral.evaluation.analyses.kinds import ANALYSES

__all__ = ["ANALYSES", "Analysis", "AnalysisName", "Kept", "Subject", "measured", "read_analysis"]
