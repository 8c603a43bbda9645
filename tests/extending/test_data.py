"""docs/extending/data.md runs as it stands there."""

import json
from collections.abc import Callable
from pathlib import Path


def test_the_data_set_of_the_page_is_trained_on_and_attacked(extending: Callable[[str], str], tmp_path: Path) -> None:
    output = extending("extending/data.md")
    assert "stripes        2,000 noisy stripes" in output
    assert "classes: upright, level" in output
    (path,) = (tmp_path / "runs" / "stripes" / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert record["data"] == "stripes"
    assert record["classes"] == ["upright", "level"]
    assert record["clean"] > 0.9
    assert f'name = "{tmp_path.resolve()}/stripes.py:stripes"' in (tmp_path / "runs/nominal/recipe.toml").read_text()
