"""Evaluation: protocols on runs, and the records they write."""

from corral.evaluation.evaluate import evaluate
from corral.records import Record, read_record

__all__ = ["Record", "evaluate", "read_record"]
