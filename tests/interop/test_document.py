"""The table in docs/interop.md is of the versions in the lock files, and nothing in it failed."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "ART": "adversarial-robustness-toolbox",
    "ONNX Runtime": "onnxruntime",
    "AutoAttack (package index)": "pyautoattack",
}
# On no package index.
ELSEWHERE = {"AutoAttack (fra31/auto-attack)"}


@pytest.mark.skipif(bool(os.environ.get("CORRAL_INTEROP")), reason="the table is being written")
def test_the_table_is_of_the_locked_versions_and_nothing_failed():
    locked = {}
    for name in ("requirements.lock", "interop.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        locked |= {found.lower(): version for found, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    lines = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / "interop.md").read_text(encoding="utf-8"), re.MULTILINE)
    rows = [line.split(" | ") for line in lines if not line.startswith(("tool", "---"))]
    assert {len(row) for row in rows} == {4}
    assert len(rows) >= 20
    for tool, version, _, result in rows:
        assert tool in ELSEWHERE or locked[NAMES.get(tool, tool).lower()] == version, f"{tool}: run `make interop`"
        assert result.strip("*") != "failed"
        assert tool in ELSEWHERE or not result.startswith("skipped")
