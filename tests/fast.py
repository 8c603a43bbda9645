"""Lint, types and the tests that a change touches, in under a minute on two idle cores: `make fast`.

usage: python tests/fast.py [--base REV] [--seconds 60] [--list]

A change is what differs from where the branch left `main` (or REV), committed or not. A module's tests are the file or
folder of its place under tests/, and every test file that imports the module. Tests that are marked slow or real_data
are left to `make test`, and so are those for which no time is left; their number is said.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Run where a change touches no code that has tests of its own: a few seconds of each part of the library.
QUICK = (
    "tests/geometry/test_scores.py",
    "tests/losses/test_consistency.py",
    "tests/models/test_classifier.py",
    "tests/attacks/test_within.py",
    "tests/certify/test_norms.py",
    "tests/data/test_batches.py",
    "tests/test_registry.py",
    "tests/test_docs.py",
)
# What has its tests elsewhere than in the mirrored place.
ELSEWHERE = {
    "src/corral/recipes/": ("tests/training/test_recipe.py",),
    "src/corral/papers/tables/": ("tests/papers/test_scales.py",),
    "experiments/arena/": ("tests/arena",),
    "docs/": ("tests/test_docs.py", "tests/pages"),
    "results/": ("tests/test_docs.py",),
    "README.md": ("tests/test_docs.py", "tests/pages"),
    "mkdocs.yml": ("tests/pages/test_reference.py",),
    "hatch_build.py": ("tests/pages/test_site.py",),
    "experiments/docs_site.py": ("tests/pages/test_site.py",),
    "src/corral/zoo/": ("tests/test_zoo.py", "tests/test_checkpoints.py"),
    "notebooks/": ("tests/test_notebooks.py",),
    "scripts/notebooks.py": ("tests/test_notebooks.py",),
    "scripts/": ("tests/test_release.py",),
    "pyproject.toml": (*QUICK, "tests/test_release.py"),
    "src/corral/__init__.py": (*QUICK, "tests/test_api.py"),
}
# Seconds that each worker may spend on tests, in its environment; what starting it takes on an idle core.
SECONDS, STARTING = "CORRAL_FAST_SECONDS", 10.0
ENDS = pytest.StashKey[float]()


def changed_files(base: str) -> list[str]:
    """Paths of what differs from the base in commits, in the working tree or by not being tracked."""

    def lines(*command: str) -> list[str]:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    found = subprocess.run(["git", "merge-base", base, "HEAD"], cwd=ROOT, capture_output=True, text=True)
    start = found.stdout.strip() or "HEAD"
    return sorted({*lines("git", "diff", "--name-only", start), *lines("git", "ls-files", "-o", "--exclude-standard")})


def covering(path: str, root: Path = ROOT) -> list[str]:
    """The test files and folders that a changed file touches, those nearest to it first.

    Args:
        path: relative to the repository.
        root: of the repository.
    """
    for start, tests in ELSEWHERE.items():
        if path.startswith(start):
            return list(tests)
    parts = Path(path)
    if parts.parts[0] == "tests":
        if parts.name.startswith("test_"):
            return [path] if (root / path).is_file() else []
        if parts.suffix != ".py" or parts.parent == Path("tests"):  # what all tests share is not a minute's work
            return []
        return [str(parts.parent)]
    if parts.parts[:2] != ("src", "corral") or parts.suffix != ".py":
        return []
    inner = parts.relative_to("src/corral").with_suffix("")
    folder = Path("tests") / inner.parent
    mirrored = folder / f"test_{inner.name}.py"
    importers = [] if inner.name == "__init__" else _importers(".".join(("corral", *inner.parts)), root)
    if (root / mirrored).is_file():
        return [str(mirrored), *(name for name in importers if name != str(mirrored))]
    return importers or ([str(folder)] if (root / folder).is_dir() else [])


def _importers(module: str, root: Path) -> list[str]:
    """Test files that import a module by its own name, or the name from its package."""
    package, _, name = module.rpartition(".")
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if any(
            line.startswith(f"from {module} import")
            or line.startswith(f"import {module}")
            or (line.startswith(f"from {package} import") and name in line.partition(" import ")[2].split(", "))
            for line in map(str.strip, lines)
        ):
            found.append(str(path.relative_to(root)))
    return found


def chosen(paths: list[str], root: Path = ROOT) -> list[str]:
    """The tests of some changed files, each once; the quick ones where there are none."""
    found: list[str] = []
    for path in paths:
        found += [name for name in covering(path, root) if name not in found]
    inside = [name for name in found if not any(name.startswith(f"{folder}/") for folder in found)]
    return inside or list(QUICK)


def pytest_sessionstart(session: pytest.Session) -> None:
    """As a plugin: the time begins when a worker is ready, so that a loaded machine runs some tests all the same."""
    session.config.stash[ENDS] = time.monotonic() + float(os.environ[SECONDS])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """As a plugin: skip what is left when the time is up."""
    if time.monotonic() > item.config.stash[ENDS]:
        pytest.skip("no time left")


def main() -> int:
    """Run the checks; the exit code is the first failure's."""
    parser = argparse.ArgumentParser(description="Lint, types and the tests that a change touches.")
    parser.add_argument("--base", default="main")
    parser.add_argument("--seconds", type=float, default=60.0, help="for everything; tests stop being begun in time")
    parser.add_argument("--list", action="store_true", help="say which tests, and run nothing")
    options = parser.parse_args()
    started = time.time()
    tests = chosen(changed_files(options.base))
    if options.list:
        print("\n".join(tests))
        return 0
    tools = Path(sys.executable).parent
    # mypy keeps what it found in .mypy_cache: the first run takes half a minute more than the next.
    for command in (
        [f"{tools}/ruff", "check", "-q", "src", "tests", "benchmarks", "experiments", "scripts"],
        [f"{tools}/ruff", "format", "-q", "--check", "src", "tests", "benchmarks", "experiments", "scripts"],
        [f"{tools}/mypy", "--no-error-summary"],
    ):
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            return code
    print(f"lint and types {time.time() - started:.0f} s; tests: {' '.join(tests)}", flush=True)
    environment = os.environ | {
        SECONDS: str(max(options.seconds - (time.time() - started) - STARTING, options.seconds / 2)),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    # Two workers import torch twice more: not for a file or two.
    workers = ["-n", "2", "--dist", "worksteal"] if len(tests) > 2 or not all(t.endswith(".py") for t in tests) else []
    command = [sys.executable, "-m", "pytest", "-p", "tests.fast", *workers, "-x", "-rs"]
    code = subprocess.run([*command, "-m", "not slow and not real_data", *tests], cwd=ROOT, env=environment).returncode
    print(f"{time.time() - started:.0f} s in all; `make test` runs every test")
    return 0 if code == 5 else code  # 5: all that was chosen is marked slow


if __name__ == "__main__":
    sys.exit(main())
