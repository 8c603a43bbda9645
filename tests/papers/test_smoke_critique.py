"""The critique's tables, whole at smoke scale; a file of its own so that workers share the time."""

import pytest

from corral.papers import shipped_tables


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_tables() if name.startswith("critique")])
def test_every_table_is_made_whole_at_smoke_scale(name, made_whole):
    made_whole(name)
