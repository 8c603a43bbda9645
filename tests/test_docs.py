"""The documents: their tables are the results', and what they link to is there."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "benchmarks" / "docs_tables.py"))
DOCUMENTS = TOOL["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_in_documents_are_those_of_the_results(path):
    text = path.read_text(encoding="utf-8")
    assert TOOL["refreshed"](text) == text, "run `python benchmarks/docs_tables.py`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


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
