"""Which of the shipped tables a file of tests makes at smoke scale."""

from collections.abc import Callable
from typing import Any

import pytest

from corral.papers import shipped_tables

# Ten seconds and more of an idle core each, of rows and columns that tables made in `make test` have too.
LONG = (
    *("cause", "clustr-convergence", "clustr-figure4", "critique-ablations"),
    *("mat-figure1", "mat-figure2", "mat-table2", "ncp-figure3", "ncp-table3"),
)


def tables(wanted: Callable[[str], bool]) -> list[Any]:
    """The names of the wanted ones; the long ones are for `make thorough`."""
    marks = {name: [pytest.mark.thorough] if name in LONG else [] for name in shipped_tables()}
    return [pytest.param(name, marks=marks[name]) for name in marks if wanted(name)]
