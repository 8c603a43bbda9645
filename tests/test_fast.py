"""Which tests `make fast` chooses for a change, and what it leaves out."""

import subprocess
import sys

import pytest
from tests.fast import QUICK, ROOT, chosen, covering


@pytest.fixture
def tree(tmp_path):
    """A repository of a few modules and tests."""
    files = {
        "src/corral/a/b.py": "",
        "src/corral/a/c.py": "",
        "src/corral/a/d.py": "",
        "src/corral/e.py": "",
        "tests/a/test_b.py": "import corral\n",
        "tests/a/test_other.py": "from corral.a.c import thing\n",
        "tests/a/conftest.py": "",
        "tests/test_e.py": "    from corral.a import c, x\n",
        "tests/oracles.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("src/corral/a/b.py", ["tests/a/test_b.py"]),  # the mirrored file
        ("src/corral/a/c.py", ["tests/a/test_other.py", "tests/test_e.py"]),  # those that import it, in either form
        ("src/corral/a/d.py", ["tests/a"]),  # neither: its folder
        ("src/corral/a/__init__.py", ["tests/a"]),
        ("src/corral/e.py", ["tests/test_e.py"]),
        ("tests/a/test_b.py", ["tests/a/test_b.py"]),
        ("tests/a/test_gone.py", []),
        ("tests/a/conftest.py", ["tests/a"]),
        ("tests/oracles.py", []),
        ("src/corral/recipes/at.toml", ["tests/training/test_recipe.py"]),
        ("docs/method.md", ["tests/test_docs.py", "tests/pages"]),
        ("Makefile", []),
    ],
)
def test_a_files_tests_are_in_its_place_or_import_it(tree, path, tests):
    assert covering(path, tree) == tests


def test_a_folder_stands_for_its_files_and_nothing_for_the_quick_ones(tree):
    assert chosen(["src/corral/a/b.py", "src/corral/a/d.py"], tree) == ["tests/a"]
    assert chosen(["Makefile"], tree) == list(QUICK)


def test_the_quick_tests_are_there():
    assert all((ROOT / name).is_file() for name in QUICK)


def test_what_no_time_is_left_for_is_skipped_and_said(tmp_path):
    test = tmp_path / "test_late.py"
    test.write_text("def test_late():\n    raise AssertionError\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.fast", "-p", "no:cacheprovider", "-rs", str(test)],
        cwd=ROOT,
        env={"CORRAL_FAST_SECONDS": "0", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "no time left" in done.stdout
