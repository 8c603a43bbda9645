"""A page of docs/extending is run as it stands there: its files are written, its commands run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# In one process, because importing torch takes longer than an example.
RUNNER = """
import shlex, sys
from corral.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = shlex.split(line)
    print(f"$ {line}", flush=True)
    try:
        main()
    except SystemExit as ended:
        if ended.code not in (0, None):
            sys.exit(f"{line}: exit code {ended.code}")
"""


@pytest.fixture
def extending(tmp_path: Path) -> Callable[[str], str]:
    """Run a page, named from docs on: its Python blocks become the files of their first lines; its commands' output."""

    def run(page: str) -> str:
        text = (DOCS / page).read_text(encoding="utf-8")
        for name, code in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL):
            (tmp_path / name).write_text(code)
            assert len([line for line in code.splitlines() if line.strip()]) <= 40, f"{page}: {name} is long"
        commands = [
            line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines() if line
        ]
        environment = {key: value for key, value in os.environ.items() if key != "CORRAL_PLUGINS"}
        done = subprocess.run(
            [sys.executable, "-c", RUNNER],
            input="\n".join(commands),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
