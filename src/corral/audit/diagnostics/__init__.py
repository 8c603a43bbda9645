"""Diagnostics of masked gradients: whether gradient attacks on a model can be believed, and if not, why."""

from corral.audit.diagnostics.diagnose import diagnose
from corral.audit.diagnostics.findings import Diagnosis, Finding, Verdict

__all__ = ["Diagnosis", "Finding", "Verdict", "diagnose"]
