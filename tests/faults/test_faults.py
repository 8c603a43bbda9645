"""A short form of `make faults`: kills, writers at once and a limit on files, a try or two each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="its calls are forked processes")
def test_a_short_form_of_the_fault_table_has_nothing_lost_and_nothing_bad():
    command = [sys.executable, "-m", "tests.faults.driver", "--short"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert {(row["fault"], row["verb"]) for row in rows} == {
        *((fault, verb) for fault in ("SIGTERM", "SIGKILL", "two writers") for verb in ("train", "evaluate")),
        ("two recipes", "train"),
    }
    assert [(row["lost"], row["bad"]) for row in rows] == [(0, 0)] * len(rows)
