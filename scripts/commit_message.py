"""Check a commit message: "scope: imperative", at most 72 characters, then an empty line; findings in the body.

usage: python scripts/commit_message.py FILE           # the commit-msg hook of .pre-commit-config.yaml
"""

import re
import sys
from pathlib import Path

MOST = 72
SUBJECT = re.compile(r"[a-z0-9][\w .,/*-]*: [^\s]")
OTHER = ("Merge ", "Revert ", "fixup! ", "squash! ")


def problem(message: str) -> str | None:
    """What is wrong with a message, or None. Lines that begin with # are git's own."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(OTHER):
        return None
    if len(subject) > MOST:
        return f"the subject has {len(subject)} characters, at most {MOST}: findings belong in the body"
    if not SUBJECT.match(subject):
        return f"the subject {subject!r} is not 'scope: imperative', such as 'attacks: count forward passes'"
    if subject.endswith("."):
        return "the subject ends in a full stop"
    if len(lines) > 1 and lines[1].strip():
        return "the line below the subject is not empty"
    return None


if __name__ == "__main__":
    sys.exit(problem(Path(sys.argv[1]).read_text(encoding="utf-8")))
