"""What `make docs` adds to the pages, and the long description of the package."""

import json
import re
import runpy
from pathlib import Path

import pytest
from tests.pages.blocks import ROOT

from corral.cli.commands import app

SITE = runpy.run_path(str(ROOT / "experiments" / "docs_site.py"))
INDEX = runpy.run_path(str(ROOT / "hatch_build.py"))["for_index"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two pages, a table that a page links to, and what that links to in turn."""
    files = {
        "docs/a.md": "[b](b.md) [t](../results/t.md#seeds) `[x](../none.md)` [`r`](../results) [w](https://a.org/c.md)\n",
        "docs/deep/c.md": "[t](../../results/t.md)\n\n```sh\n[x](../../none.md)\n```\n",
        "docs/b.md": "nothing\n",
        "results/t.md": "[a](../docs/a.md) [s](../run.py) [r](README.md)\n",
        "results/README.md": "words\n",
        "run.py": "print(1)\n",
        "other.py": "print(2)\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_pages_link_to_is_on_the_site_and_nothing_else(repository):
    pages = sorted((repository / "docs").rglob("*.md"))
    found = SITE["linked_files"](pages, repository)
    assert [path.relative_to(repository).as_posix() for path in found] == [
        "results/README.md",
        "results/t.md",
        "run.py",
    ]


def test_links_lead_to_where_the_site_has_it(repository):
    def moved(name):
        return SITE["with_links"]((repository / name).read_text(), repository / name, repository)

    assert moved("docs/a.md") == (
        "[b](b.md) [t](repository/results/t.md#seeds) `[x](../none.md)` `r` [w](https://a.org/c.md)\n"
    )
    assert moved("docs/deep/c.md") == "[t](../repository/results/t.md)\n\n```sh\n[x](../../none.md)\n```\n"
    assert moved("results/t.md") == "[a](../../a.md) [s](../run.py.md) [r](README.md)\n"


@pytest.mark.parametrize("name", ["docs/a.md", "docs/deep/c.md", "results/t.md", "run.py"])
def test_a_page_of_the_site_is_of_its_file(repository, name):
    assert SITE["file_of"](SITE["page_of"](repository / name, repository), repository) == repository / name


def test_a_script_is_shown_as_code(repository):
    assert SITE["shown"](repository / "run.py", repository) == "# run.py\n\n````py\nprint(1)\n````\n"


def test_a_notebook_is_shown_with_what_it_printed_and_drew(tmp_path):
    printed = {"output_type": "stream", "text": ["3\n", "4\n"]}
    drawn = {"output_type": "execute_result", "data": {"image/png": "iVBO\n", "text/plain": ["<Figure>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Sums\n", "\n", "Of two."]},
        {"cell_type": "code", "source": ["print(3)\n", "print(4)"], "outputs": [printed, drawn]},
        {"cell_type": "code", "source": ["x = 1"], "outputs": []},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert SITE["shown"](tmp_path / "a.ipynb", tmp_path) == (
        "# Sums\n\nOf two.\n\n```python\nprint(3)\nprint(4)\n```\n\n```text\n3\n4\n```\n\n"
        '<img alt="What the code above draws" src="data:image/png;base64,iVBO">\n\n```python\nx = 1\n```\n'
    )


def test_the_commands_of_the_page_are_all_with_their_options():
    text = SITE["commands"]()
    assert set(re.findall(r"^### corral (\w+)$", text, re.MULTILINE)) == {
        command.callback.__name__ for command in app.registered_commands
    }
    train = text.split("### corral train\n")[1]
    assert "| `--eps TEXT` | Radius in pixel units: 0.1 or 8/255. |\n" in train
    assert not re.search(r"<(int|str|float|path|list)|\d{9}", text)


TEXT = "[a](docs/a.md) ![p](docs/p.png) [w](https://a.org) [h](#here)"


def test_a_package_index_shows_no_link_that_leads_nowhere():
    assert INDEX(TEXT, None) == "a  [w](https://a.org) [h](#here)"
    host = "https://a.org/x"
    moved = f"[a]({host}/blob/HEAD/docs/a.md) ![p]({host}/raw/HEAD/docs/p.png) [w](https://a.org) [h](#here)"
    assert INDEX(TEXT, f"{host}/") == moved


def test_the_package_s_long_description_is_readme_of_this_kind():
    core = pytest.importorskip("hatchling.metadata.core")
    plugins = pytest.importorskip("hatchling.plugin.manager")
    metadata = core.ProjectMetadata(str(ROOT), plugins.PluginManager())
    assert metadata.core.readme_content_type == "text/markdown"
    assert metadata.core.readme.startswith("# corral\n")
    assert list(SITE["links"](metadata.core.readme)) == []


def test_readme_is_short_and_begins_with_what_the_reader_does():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120
    assert "corral.audit(net" in "".join(lines[:30])
    assert sum(line.startswith("![") for line in lines) == 1
    assert text.count("<!-- table:") == 1
