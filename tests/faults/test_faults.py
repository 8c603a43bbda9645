"""A short form of `make faults`: kills and two writers at once, a try each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="its calls are forked processes")
def test_a_short_form_of_the_fault_table_has_nothing_lost_and_nothing_bad():
    command = [sys.executable, "-m", "tests.faults.driver", "--short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    found = [(row["fault"], row["verb"], row["tries"], row["lost"], row["bad"]) for row in rows]
    assert found == [("SIGTERM", "train", 1, 0, 0), ("SIGKILL", "evaluate", 1, 0, 0), ("two writers", "train", 1, 0, 0)]
