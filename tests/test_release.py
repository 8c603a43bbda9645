"""What is released: the built files, what installing the wheel alone gives, and the rules of a release."""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from corral import zoo
from corral.version import __version__

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "scripts" / "release.py"))
MESSAGE = runpy.run_path(str(ROOT / "scripts" / "commit_message.py"))["problem"]
SECTION = (
    "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-12-24\n\n- b: two\n\n## [1.1.0] - 2026-11-30\n\n- a: one\n"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The wheel and the sdist of this tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    TOOL["build"](ROOT, folder)
    return folder


def test_the_built_files_have_what_a_user_needs_and_nothing_else(dist):
    assert TOOL["file_problems"](dist, __version__) == []


def test_a_wheel_without_its_recipes_is_noticed(dist, tmp_path):
    import zipfile

    name = f"corral-{__version__}"
    shutil.copy(dist / f"{name}.tar.gz", tmp_path)
    with (
        zipfile.ZipFile(dist / f"{name}-py3-none-any.whl") as whole,
        zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as part,
    ):
        for one in whole.namelist():
            if "recipes/" not in one:
                part.writestr(one, whole.read(one))
        part.writestr("results/runs.csv", "")
    problems = TOOL["file_problems"](tmp_path, __version__)
    assert f"{name}-py3-none-any.whl: without corral/recipes/at.toml" in problems
    assert f"{name}-py3-none-any.whl: results/runs.csv is no part of it" in problems
    assert TOOL["file_problems"](tmp_path, "9.9.9") == [
        f"{tmp_path}: no corral-9.9.9-py3-none-any.whl",
        f"{tmp_path}: no corral-9.9.9.tar.gz",
    ]


@pytest.mark.slow
def test_the_wheel_alone_works_where_nothing_else_of_corral_is(dist, tmp_path):
    """In an environment of its own: torch and the other dependencies come by a .pth, corral from the wheel alone."""
    venv.create(tmp_path / "env", with_pip=False)
    bin_folder = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--no-cache-dir", str(wheel)], check=True)
    paths = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(paths, check=True, capture_output=True, text=True).stdout.strip())
    # A line with a path: its own .pth files, an editable corral's among them, are not read.
    (own / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CORRAL_PLUGINS")}
    work = tmp_path / "work"
    work.mkdir()

    def run(*words):
        done = subprocess.run(
            [bin_folder / "corral", *words], cwd=work, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import corral; print(corral.__file__)"], cwd=work, env=clean, check=True, capture_output=True
    )
    assert Path(where.stdout.decode().strip()).is_relative_to(own)
    assert run("--version") == f"corral {__version__}\n"
    assert all(name in run("models") for name in zoo.names())
    small = ["--set", "width=4", "--set", "data.train=100", "--set", "model.features=8", "--epochs", "1", "--quiet"]
    run("train", "at", "--data", "digits", "--out", "run", *small)
    run("evaluate", "run", "corral/digits-at", "--n", "20", "--attack", "pgd_ce", "--quiet")
    run("report", "run", "measured/corral-digits-at", "--out", "report.html")
    assert {path.name for path in work.iterdir()} == {"run", "measured", "report.html"}


def test_a_releases_section_is_found():
    # `changes` reads the file of a folder
    assert TOOL["SECTION"].findall(SECTION) == [("Unreleased", ""), ("1.2.0", "2026-12-24"), ("1.1.0", "2026-11-30")]


@pytest.fixture
def tree(tmp_path):
    """A tree that is ready to be released as 1.2.0."""
    (tmp_path / "src" / "corral").mkdir(parents=True)
    (tmp_path / "src" / "corral" / "version.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(SECTION)
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2026-12-24\n")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "tree: begin"]):
        TOOL["git"](tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", *words)
    return tmp_path


def test_a_tree_that_is_ready_has_no_problems(tree):
    assert TOOL["source_problems"](tree) == TOOL["tree_problems"](tree) == []
    assert TOOL["changes"](tree, "1.2.0") == ("2026-12-24", "- b: two")
    assert TOOL["changes"](tree, "1.1.0") == ("2026-11-30", "- a: one")


@pytest.mark.parametrize(
    ("file", "before", "after", "words"),
    [
        ("CHANGELOG.md", "## [1.2.0] - 2026-12-24", "## [1.2.1] - 2026-12-24", "no dated section of 1.2.0"),
        ("CHANGELOG.md", " - 2026-12-24", "", "no dated section of 1.2.0"),
        ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- c: three\n", "1 lines below [Unreleased]"),
        ("CITATION.cff", "version: 1.2.0", "version: 1.1.0", "version is 1.1.0, expected 1.2.0"),
        ("CITATION.cff", "2026-12-24", "2026-12-25", "date-released is 2026-12-25, expected 2026-12-24"),
        ("src/corral/version.py", "1.2.0", "1.1.0", "version is 1.2.0, expected 1.1.0"),
    ],
)
def test_what_does_not_fit_is_one_line_each(tree, file, before, after, words):
    text = (tree / file).read_text()
    (tree / file).write_text(text.replace(before, after, 1))
    assert words in "\n".join(TOOL["source_problems"](tree))
    assert TOOL["tree_problems"](tree) == [f"the tree is not clean: {file}"]


def test_another_branch_and_a_tag_that_is_there_are_refused(tree):
    TOOL["git"](tree, "tag", "v1.2.0")
    TOOL["git"](tree, "checkout", "-q", "-b", "work")
    assert TOOL["tree_problems"](tree) == [
        "this is branch work, a release is made from main",
        "the tag v1.2.0 is there already; raise the version",
    ]


def test_this_repository_can_be_released():
    assert TOOL["source_problems"](ROOT) == []


def test_an_extra_is_no_hard_dependency_and_each_dependency_has_a_floor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [one.split(">=")[0] for one in project["dependencies"]]
    optional = {one.split(">=")[0] for extra in project["optional-dependencies"].values() for one in extra}
    assert all(">=" in one for one in project["dependencies"])
    assert not optional & set(names)
    assert "tensorboard" in optional


@pytest.mark.parametrize(
    "message",
    [
        "attacks: count forward passes\n\nFindings: 3% fewer.\n",
        "site, docs: link the API\n# Please enter the commit message\n",
        "Merge branch 's28b': attack speed",
        "fixup! attacks: count",
    ],
)
def test_a_commit_message_of_the_form_is_taken(message):
    assert MESSAGE(message) is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "is not 'scope: imperative'"),
        ("Fix stuff", "is not 'scope: imperative'"),
        (f"attacks: {'x' * 64}", "has 73 characters"),
        ("attacks: count passes.", "full stop"),
        ("attacks: count passes\nand more", "below the subject is not empty"),
    ],
)
def test_another_commit_message_is_refused(message, words):
    assert words in MESSAGE(message)
