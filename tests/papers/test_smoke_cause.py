"""Every table of no paper, whole at smoke scale; a file of its own so that workers share the time."""

import pytest
from tests.papers.smoke_tables import tables

# These have files of their own.
PAPERS = ("clustr", "critique", "mat", "ncp")


@pytest.mark.slow
@pytest.mark.parametrize("name", tables(lambda name: not name.startswith(PAPERS)))
def test_every_table_is_made_whole_at_smoke_scale(name, made_whole):
    made_whole(name)
