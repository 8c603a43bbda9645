"""The papers' tables, made again: published, ours under the published protocol, ours under a sound attack."""

from corral.papers.definition import Table, load_table, shipped_tables
from corral.papers.make import reproduce
from corral.papers.show import show

__all__ = ["Table", "load_table", "reproduce", "shipped_tables", "show"]
