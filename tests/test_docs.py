"""The documents: their tables are the results', and what they link to is there."""

import csv
import itertools
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from corral.cli.options import parse_setting
from corral.training import load_recipe

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "experiments" / "docs_tables.py"))
DOCUMENTS = TOOL["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_in_documents_are_those_of_the_results(path):
    text = path.read_text(encoding="utf-8")
    assert TOOL["refreshed"](text) == text, "run `make tables`"


def test_committed_tables_are_what_the_csv_files_make():
    tool = [sys.executable, str(ROOT / "experiments" / "tables.py"), "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), f"run `make tables`\n{done.stdout}{done.stderr[-2000:]}"


@pytest.mark.parametrize(("name", "page"), [("screening", "attacks"), ("precision", "performance")])
def test_the_table_of_an_experiment_is_that_of_its_file(monkeypatch, name, page):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    table = runpy.run_path(str(ROOT / "experiments" / f"{name}.py"))["table"]
    with (ROOT / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        assert table(list(csv.DictReader(stream))) in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_lines_that_differ_in_numbers_alone_are_one_row():
    lines = ('{"fault": "a", "tries": 2, "lost": 0}', '{"other": 1}', '{"fault": "b", "tries": 1000, "lost": 1}')
    table = TOOL["table_of_lines"]("\n".join((*lines, lines[0])), ["fault", "tries", "lost"])
    assert table.splitlines()[2:] == ["| a | 4 | 0 |", "| b | 1,000 | 1 |"]


def test_a_changed_number_is_noticed():
    source = "# A\n\n## B\n\ntext\n\n| x | y |\n| --- | ---: |\n| a | 1.0 |\n\nmore\n\n| z |\n"
    assert TOOL["table_below"](source, "B") == "| x | y |\n| --- | ---: |\n| a | 1.0 |\n"
    for heading, words in (("C", "no heading 'C'"), ("A", "no table below 'A'")):
        with pytest.raises(ValueError, match=words):
            TOOL["table_below"](source, heading)


def test_a_block_is_refreshed_in_place(tmp_path):
    (tmp_path / "t.md").write_text("## B\n\n| x |\n| --- |\n| 2.0 |\n")
    before = "Before.\n<!-- table: t.md # B -->\n\n| x |\n| --- |\n| 1.0 |\n\n<!-- end -->\nAfter.\n"
    after = TOOL["refreshed"](before, tmp_path)
    assert after == before.replace("1.0", "2.0")
    assert TOOL["refreshed"](after, tmp_path) == after


FOLDERS = ("src", "docs", "benchmarks", "experiments", "tests", "examples")
TEXTS = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))),
    *(path for path in sorted(ROOT.iterdir()) if path.is_file() and not path.name.startswith(".")),
]
# What a run of the library writes; and these files make names up.
WRITTEN, MADE_UP = {"table.md", "card.md"}, {"test_docs.py", "test_site.py"}


def texts():
    """The repository's texts by their path."""
    kinds = (".py", ".md", ".toml", ".html", ".jinja", ".j2", ".css", ".js", "")
    for path in TEXTS:
        if path.is_file() and path.suffix in kinds and path.name not in MADE_UP:
            yield path, path.read_text(encoding="utf-8")


def cited(text):
    """The documents that a text names, links to other sites aside."""
    return [name for name in re.findall(r"(?<![\w./:-])[\w./-]+\.md\b", text) if Path(name).name not in WRITTEN]


def test_what_a_text_cites_is_in_the_repository():
    absent = []
    for path, text in texts():
        for name in cited(text):
            places = (path.parent / name, ROOT / name, ROOT / "docs" / name)
            if not any(place.is_file() and place.resolve().is_relative_to(ROOT) for place in places):
                absent.append((str(path.relative_to(ROOT)), name))
    assert absent == []


def test_what_the_product_needs_is_not_beside_the_repository():
    """A recipe's source is part of its digest, which names run folders: there row C' keeps its first name."""
    outside = re.compile(r"\.\./shared|/work/|lab.notes", re.IGNORECASE)
    found = {
        str(path.relative_to(ROOT))
        for path, text in texts()
        if path.parts[len(ROOT.parts)] in ("src", "docs") and outside.search(text)
    }
    # Two models that come with corral are runs of the recipe.
    runs = {f"src/corral/zoo/{name}/recipe.toml" for name in ("digits-corral", "mnist-corral")}
    assert found <= {"docs/method.md", "src/corral/recipes/corral.toml", "src/corral/recipes/corral-toward.toml"} | runs


def test_a_citation_of_what_is_elsewhere_is_noticed():
    found = cited("see lab-notes.md, ../shared/design/x.md, [a](docs/method.md) and https://a.org/b.md; table.md")
    assert found == ["lab-notes.md", "../shared/design/x.md", "docs/method.md"]


def table_of(text, first):
    """The rows, as lists of cells, of the table whose first heading cell is given."""
    lines = text[text.index(f"| {first} |") :].splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows][2:]


def test_the_methods_page_has_every_option_with_its_default():
    kind = type(load_recipe("corral").method)
    said = {row[0].strip("`"): row[1] for row in table_of((ROOT / "docs" / "method.md").read_text(), "`method.`")}
    options = {name: field.default for name, field in kind.model_fields.items() if name != "name"}
    assert said.keys() == options.keys()
    inner = options.pop("inner")
    assert said["inner"] == f"{inner.steps} steps of {inner.step_ratio} × eps, {inner.mode} mode"
    assert {name: said[name].strip("`").strip('"') for name in options} == {
        name: str(default) for name, default in options.items()
    }


def test_the_rows_of_the_methods_page_are_recipes():
    rows = table_of((ROOT / "docs" / "method.md").read_text(), "row")
    assert [row[0] for row in rows] == ["A", "B", "C", "C'", "D", "E"]
    made = {}
    for row in rows:
        settings = dict(parse_setting(text) for text in row[4].strip("`").split() if "=" in text)
        method = load_recipe("corral", overrides=settings).method
        made[row[0]] = (method.loss, method.centroids, method.adversary, method.pull)
    assert made == {
        "A": ("magnet", "adversarial_batch", "head", 0),
        "B": ("magnet", "clean_batch", "batch", 0),
        "C": ("cross_entropy", "clean_batch", "head", 0),
        "C'": ("cross_entropy", "clean_batch", "batch", 0),
        "D": ("cross_entropy", "learned", "head", 0),
        "E": ("cross_entropy", "learned", "head", 0.1),
    }
