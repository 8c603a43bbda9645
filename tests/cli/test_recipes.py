import json
import tomllib

import pytest
from typer.testing import CliRunner

from corral import cli
from corral.cli.recipes import PAPERS, VARIANTS
from corral.training import chosen_sets, load_recipe, shipped_recipes


def called(*arguments, columns=100):
    return CliRunner().invoke(cli.app, [*arguments], env={"COLUMNS": str(columns)}).stdout


@pytest.mark.parametrize("columns", [80, 100, 240])
def test_the_list_fits_a_screen(columns):
    lines = called("recipes", columns=columns).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= columns


def test_every_recipe_is_in_the_list_once_with_its_paper_and_summary():
    *rows, _, _ = called("recipes", columns=300).splitlines()
    listed, papers = [], []
    for row in rows:
        name, paper, summary = row.split(maxsplit=2)
        marks = [mark for mark in VARIANTS if mark in name.removesuffix("++")[-len(VARIANTS) :]]
        base = name.rstrip("".join(VARIANTS))
        assert summary == load_recipe(base).summary
        papers.append(paper)
        ends = [VARIANTS[mark][0] for mark in marks]
        both = ["-mse-published"] if "*" in marks and "~" in marks else []
        both += ["-air++"] if "^" in marks and "+" in marks else []
        listed += [base, *(base + end for end in (*ends, *both))]
    assert sorted(listed) == sorted(shipped_recipes())
    assert sorted(papers, key=PAPERS.index) == papers
    assert set(papers) == set(PAPERS)


def test_one_recipe_is_told_as_toml_with_what_it_is_for():
    text = called("recipes", "clustr-qtrades", "--data", "mnist")
    recipe = load_recipe("clustr-qtrades", data="mnist")
    head = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    assert head[0] == f"clustr-qtrades: {recipe.summary}"
    assert head[1] == f"Source: {recipe.source}"
    assert ", ".join(chosen_sets("clustr-qtrades")) in head[2]
    assert head[2].endswith("here are those for mnist.")
    assert tomllib.loads(text) == tomllib.loads(recipe.to_toml())
    assert json.loads(called("recipes", "clustr-qtrades", "--data", "mnist", "--json"))["name"] == "clustr-qtrades"


def test_a_method_of_one_s_own_without_a_source_has_no_empty_comment(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "at"\nname = "mine"\nsource = ""\n')
    text = called("recipes", str(tmp_path / "mine.toml"))
    assert "# Source" not in text
