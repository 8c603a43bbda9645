"""Check a release, build it and tag it. Nothing is pushed or uploaded.

usage: python scripts/release.py                      # checks, builds dist/, checks the files; `make release`
       python scripts/release.py --tag                # and tags the commit, after `make test thorough`
       python scripts/release.py --check-files dist   # only the files that were built

A release is the clean tree of `main`: the version is in src/corral/version.py and in CITATION.cff, with the date of the
section `## [VERSION] - DATE` of CHANGELOG.md, below an empty `## [Unreleased]`.
"""

import argparse
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)
# What a user needs and a build is likeliest to lose.
IN_WHEEL = (
    *("corral/py.typed", "corral/cli/__init__.py", "corral/recipes/at.toml", "corral/recipes/data/mnist.toml"),
    *(
        "corral/papers/tables/clustr-table1.toml",
        "corral/zoo/mnist-at/model.safetensors",
        "corral/zoo/mnist-at/card.md",
    ),
)
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO")
# Top folders of the sdist; results, tests and experiments stay in the repository.
SDIST_FOLDERS = {"src"}
MOST_BYTES = 5_000_000


def version(root: Path = ROOT) -> str:
    """The version of the package."""
    found = re.search(r'__version__ = "([^"]+)"', (root / "src" / "corral" / "version.py").read_text())
    assert found is not None
    return found[1]


def changes(root: Path, wanted: str) -> tuple[str | None, str]:
    """The date and the text of a version's section of the changelog; None and "" where there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = list(SECTION.finditer(text))
    for one, following in zip(sections, [*sections[1:], None], strict=True):
        if one["name"] == wanted:
            return one["date"], text[one.end() : None if following is None else following.start()].strip()
    return None, ""


def source_problems(root: Path = ROOT) -> list[str]:
    """What in the texts does not fit the release of the package's version."""
    number, found = version(root), []
    date, text = changes(root, number)
    if not date or not text:
        found.append(f"CHANGELOG.md has no dated section of {number} with entries: ## [{number}] - YYYY-MM-DD")
    if left := changes(root, "Unreleased")[1]:
        found.append(f"CHANGELOG.md: {len(left.splitlines())} lines below [Unreleased]; move them into [{number}]")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    for key, expected in (("version", number), ("date-released", date)):
        stated = re.search(rf"^{key}: *(.*)$", citation, re.MULTILINE)
        if stated is None or stated[1].strip('"') != expected:
            found.append(f"CITATION.cff: {key} is {stated and stated[1]}, expected {expected}")
    return found


def tree_problems(root: Path = ROOT) -> list[str]:
    """What in the git tree speaks against a release from it."""
    found = []
    if changed := git(root, "status", "--porcelain"):
        found.append(f"the tree is not clean: {', '.join(line[3:] for line in changed.splitlines()[:3])}")
    if (branch := git(root, "branch", "--show-current")) != "main":
        found.append(f"this is branch {branch or '(none)'}, a release is made from main")
    if git(root, "tag", "--list", tag := f"v{version(root)}"):
        found.append(f"the tag {tag} is there already; raise the version")
    return found


def git(root: Path, *words: str) -> str:
    """What a git command prints."""
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout.rstrip()


def build(root: Path, out: Path) -> None:
    """Build sdist and wheel into a folder, by the hatchling of this environment."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out.resolve())]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def file_problems(dist: Path, number: str) -> list[str]:
    """What is wrong with the built files of a version."""
    wheel, sdist = dist / f"corral-{number}-py3-none-any.whl", dist / f"corral-{number}.tar.gz"
    absent = [path.name for path in (wheel, sdist) if not path.is_file()]
    if absent:
        return [f"{dist}: no {name}" for name in absent]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"corral-{number}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        found = [f"{wheel.name}: without {name}" for name in IN_WHEEL if name not in names]
        found += [
            f"{wheel.name}: {name} is no part of it" for name in names if name.split("/")[0] not in ("corral", info)
        ]
        if f"{info}/licenses/LICENSE" not in names:
            found.append(f"{wheel.name}: without its licence")
    with tarfile.open(sdist) as archive_of_source:
        inside = {name.partition("/")[2] for name in archive_of_source.getnames()}
        found += [f"{sdist.name}: without {name}" for name in IN_SDIST if name not in inside]
        folders = {name.split("/")[0] for name in inside if "/" in name}
        found += [f"{sdist.name}: {name}/ is no part of it" for name in sorted(folders - SDIST_FOLDERS)]
    for key, expected in (("Name", "corral"), ("Version", number), ("License-Expression", "MIT")):
        if metadata[key] != expected:
            found.append(f"{wheel.name}: its {key} is {metadata[key]}, expected {expected}")
    if metadata["Description-Content-Type"] != "text/markdown" or not str(metadata.get_payload()).strip():
        found.append(f"{wheel.name}: README is not its description")
    return found + [
        f"{path.name}: {path.stat().st_size:,} bytes" for path in (wheel, sdist) if path.stat().st_size > MOST_BYTES
    ]


def main() -> None:
    """Check, build, tag."""
    parser = argparse.ArgumentParser(description="Check a release, build it and tag it.")
    parser.add_argument("--tag", action="store_true", help="run `make test thorough`, then tag")
    parser.add_argument("--check-files", type=Path, metavar="DIST")
    given = parser.parse_args()
    number = version()
    if given.check_files is not None:
        stop(file_problems(given.check_files, number))
        return
    stop(source_problems() + tree_problems())
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    build(ROOT, ROOT / "dist")
    stop(file_problems(ROOT / "dist", number))
    if not given.tag:
        print(f"dist/ has corral {number}; nothing was tagged (--tag tags after `make test thorough`)")
        return
    for tests in ("test", "thorough"):
        subprocess.run(["make", tests], cwd=ROOT, check=True)
    message = f"corral {number}\n\n{changes(ROOT, number)[1]}\n"
    git(ROOT, "tag", "--annotate", f"v{number}", "--cleanup", "verbatim", "--message", message)
    print(f"tagged v{number}; it is public with `git push origin v{number}`")


def stop(problems: list[str]) -> None:
    """End with what is wrong, a line each."""
    if problems:
        sys.exit("\n".join(f"release: {problem}" for problem in problems))


if __name__ == "__main__":
    main()
