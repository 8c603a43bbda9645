"""Where --out may lie, and what `audit` writes over."""

import json

import pytest
from typer.testing import CliRunner

from corral import cli
from corral.errors import CorralError, UsageError


def refusal(*arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert isinstance(result.exception, CorralError)
    return result.exception


@pytest.mark.parametrize(
    "command", ["report run", "export run", "audit model.py:load --data digits --eps 0.1"], ids=lambda one: one[:6]
)
def test_of_a_page_or_a_model_only_its_own_folder_is_made(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for out in ("new/page.html", "new/model.pt2"):
        assert "there is no folder" not in str(refusal(*command.split(), "--out", out))
    found = refusal(*command.split(), "--out", "reslts/2026/page.html")
    assert isinstance(found, UsageError)
    assert str(found) == "--out reslts/2026/page.html: there is no folder reslts; make it, or name another file"
    assert list(tmp_path.iterdir()) == []


AUDIT = ("audit", "./models.py:load", "--data", "digits", "--eps", "0.1")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Writes the page of an audit of a model, of which only the name counts here."""
    monkeypatch.chdir(tmp_path)

    def write(target):
        (tmp_path / "audit.html").write_text("precious")
        (tmp_path / "audit.json").write_text(json.dumps({"format": "corral-audit-1", "target": target}))

    return write


@pytest.mark.parametrize("target", ["other.py:load", "models.py:make"])
def test_an_audit_keeps_the_page_of_another_model(page, tmp_path, target):
    page(target)
    found = refusal(*AUDIT)
    assert isinstance(found, UsageError)
    said = f"audit.html: the page of another model ({target}); give --out audit-models-py-load.html, or --overwrite"
    assert str(found) == said
    assert (tmp_path / "audit.html").read_text() == "precious"


@pytest.mark.parametrize("content", [None, "{}", "["])
def test_an_audit_keeps_a_page_that_is_none_of_its_own(page, tmp_path, content):
    page("models.py:load")
    (tmp_path / "audit.json").unlink()
    if content is not None:
        (tmp_path / "audit.json").write_text(content)
    assert "audit.html: whether it is a page of this model cannot be told" in str(refusal(*AUDIT))
    assert (tmp_path / "audit.html").read_text() == "precious"


@pytest.mark.parametrize(("target", "more"), [("models.py:load", ()), ("other.py:load", ("--overwrite",))])
def test_an_audit_replaces_the_page_of_the_same_model_or_where_it_is_told_to(page, target, more):
    page(target)
    assert "no file models.py" in str(refusal(*AUDIT, *more))  # it went on to the model, which is not there
