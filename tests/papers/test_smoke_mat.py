"""MAT's tables and figures, whole at smoke scale; a file of its own so that workers share the time."""

import pytest
from tests.papers.smoke_tables import tables


@pytest.mark.slow
@pytest.mark.parametrize("name", tables(lambda name: name.startswith("mat")))
def test_every_table_is_made_whole_at_smoke_scale(name, made_whole):
    made_whole(name)
