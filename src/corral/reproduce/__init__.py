"""The papers' tables, made again: published, ours under the published protocol, ours under a sound attack."""

from corral.reproduce.carry_out import reproduce, show
from corral.reproduce.definition import Table, load_table, shipped_tables

__all__ = ["Table", "load_table", "reproduce", "shipped_tables", "show"]
