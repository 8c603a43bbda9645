"""The papers' tables, made again: published, ours under the published protocol, ours under a sound attack."""

from corral.reproduce.definition import Table, load_table, shipped_tables
from corral.reproduce.make import reproduce
from corral.reproduce.show import show

__all__ = ["Table", "load_table", "reproduce", "shipped_tables", "show"]
