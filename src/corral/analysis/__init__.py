"""What no attack's accuracy shows of a classifier: one file an analysis, each kept as a small document."""

from corral.analysis.cache import AnalysisCache
from corral.analysis.document import Analysis, Found, read_analysis
from corral.analysis.registry import ANALYSES, AnalysisKind, Column
from corral.analysis.subject import AnalysedModel, labelled, measured_classifier, measured_run

__all__ = [
    "ANALYSES",
    "AnalysedModel",
    "Analysis",
    "AnalysisCache",
    "AnalysisKind",
    "Column",
    "Found",
    "labelled",
    "measured_classifier",
    "measured_run",
    "read_analysis",
]
