"""Figures, the page and its template: evaluation records in, one self-contained HTML page out."""

from corral.report.runs.page import render, report

__all__ = ["render", "report"]
