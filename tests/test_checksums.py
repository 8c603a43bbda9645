"""What a later command believes has a checksum: every edit is named, refused, and accepted only where that is said."""

import json
import re
import shutil

import numpy as np
import pytest
import tomli_w

import corral
from corral.checksums import checksum
from corral.cli import main
from corral.documents import Document, read_document, write_document
from corral.errors import CorralError, UsageError
from corral.report.runs.collect import collect
from corral.training import Run, load_recipe, read_metrics, train
from corral.training.recipes.files import with_checksum

SETTINGS = {"epochs": 2, "data.train": 200, "model.width": 4, "model.features": 16}


class Numbers(Document):
    format: str = "corral-numbers-2"
    words: str
    value: float
    values: list[float]


def write(path, **fields):
    write_document(Numbers(**{"words": "a", "value": 0.125, "values": [1.5, -2.0, 1e-7]} | fields), path)


def read(path):
    return read_document(path, Numbers, kind="document", command="corral make")


def digits_changed(text):
    """Each text that has one digit more or less by one than this, with the place."""
    for found in re.finditer(r"\d", text):
        at = found.start()
        yield at, text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def test_the_order_of_keys_and_white_space_are_no_content():
    assert checksum({"a": 1, "b": [1.0, None]}) == checksum(json.loads('{ "b": [1.0,null],\n"a": 1}'))
    assert checksum({"a": 1}) != checksum({"a": 1.0}) != checksum({"a": 2.0})


def test_a_document_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "x.json"
    write(path, words="né\n", values=[0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3.0])
    assert read(path).values == [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3.0]
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))  # another tool's layout
    assert read(path).words == "né\n"
    assert read(path).edited == ()


def test_each_changed_digit_of_a_document_is_named(tmp_path):
    path = tmp_path / "x.json"
    write(path, edited=("a",))
    text = path.read_text()
    for at, changed in digits_changed(text):
        path.write_text(changed)
        with pytest.raises(CorralError, match=r"x\.json"):
            read(path)
        if text.index('"words"') < at < text.index('"sha256"'):
            with pytest.raises(CorralError, match=r"edited since it was written.*corral make.*--accept-edited"):
                read(path)


def test_a_document_without_checksum_is_one_of_an_earlier_version_or_edited(tmp_path):
    path = tmp_path / "x.json"
    write(path)
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(CorralError, match="edited since it was written"):
        read(path)
    path.write_text(json.dumps(content | {"format": "corral-numbers-1"}))
    assert read(path).value == 0.125


def test_an_accepted_edit_is_named_by_the_document_and_by_what_is_made_from_it(tmp_path):
    source, beside, made = tmp_path / "x.json", tmp_path / "y.json", tmp_path / "below" / "z.json"
    write(source)
    source.write_text(source.read_text().replace("0.125", "0.25"))
    with corral.accept_edited():
        assert (read(source).value, read(source).edited) == (0.25, ("x.json",))
        write(made)
        write(beside)
    assert read(made).edited == ("x.json",)
    assert read(beside).edited == ()
    with pytest.raises(CorralError, match="edited"):
        read(source)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small evaluated run."""
    path = tmp_path_factory.mktemp("runs") / "at"
    train("at", out=path, progress=False, **SETTINGS)
    corral.evaluate(path, n=20, progress=False)
    return path


@pytest.fixture
def copy(run, tmp_path):
    return Run(shutil.copytree(run, tmp_path / "at"))


def refused(read_it, *, alike):
    """Whether reading ends in one line; what is read otherwise must be the same."""
    try:
        found = read_it()
    except (CorralError, UsageError):
        return True
    assert found == alike
    return False


def test_each_changed_digit_of_a_runs_files_is_named_or_no_change(copy):
    for path, read_it in (
        (copy.recipe_file, lambda: load_recipe(copy.path)),
        (copy.metrics_file, lambda: read_metrics(copy.metrics_file)),
    ):
        text, alike = path.read_text(), read_it()
        found = 0
        for _, changed in digits_changed(text):
            path.write_text(changed)
            found += refused(read_it, alike=alike)
        path.write_text(text)
        assert found > 20


def test_a_recipe_cut_between_two_tables_is_not_completed_by_defaults(copy):
    lines = copy.recipe_file.read_text().splitlines(keepends=True)
    copy.model_file.unlink()  # of a run that is unfinished
    for end in range(1, len(lines)):
        copy.recipe_file.write_text("".join(lines[:end]))
        with pytest.raises((CorralError, UsageError), match=r"recipe\.toml"):
            load_recipe(copy.path)


def test_a_recipe_of_another_run_is_refused_beside_these_weights(copy):
    other = load_recipe(copy.path).model_dump(exclude_none=True)
    other["threat"] = other["threat"] | {"eps": 0.3}
    copy.recipe_file.write_text(with_checksum(tomli_w.dumps(other)))
    with pytest.raises(CorralError, match=r"recipe\.toml: edited since it was written"):
        corral.evaluate(copy.path, n=20, progress=False)
    with corral.accept_edited():
        record = corral.evaluate(copy.path, n=20, progress=False)
    assert record.eps != 0.3  # what the weights say stays
    page = corral.report([copy.path], out=copy.path / "page.html").read_text()
    assert "Edited by hand since it was written, and read all the same: recipe.toml of at" in page


def test_edited_metrics_are_not_resumed(copy):
    copy.model_file.unlink()
    copy.metrics_file.write_text(copy.metrics_file.read_text().replace('"steps": ', '"steps": 1', 1))
    with pytest.raises(CorralError, match=r"metrics\.jsonl: edited since"):
        train("at", out=copy.path, progress=False, resume=True, **SETTINGS)


def test_a_record_of_another_model_or_with_other_arrays_is_refused(copy):
    (path,) = copy.records_folder.glob("*.npz")
    content = path.read_bytes()
    arrays = json.loads(path.with_suffix(".json").read_text())["arrays_sha256"]
    assert len(arrays) == 64
    with np.load(path) as held:
        changed = dict(held)
    changed["features2d"] = changed["features2d"] + 1
    np.savez_compressed(path, **changed)
    with pytest.raises(CorralError, match=r"\.npz: edited since it was written"):
        collect([copy.path])
    with corral.accept_edited():
        (evidence,) = collect([copy.path])
    assert evidence.record.edited == (path.name,)
    path.write_bytes(content)
    other = Run(train("at", out=copy.path.parent / "other", progress=False, **SETTINGS | {"epochs": 1}))
    shutil.copy(other.model_file, copy.model_file)
    with pytest.raises(CorralError, match=r"records: of another model .* than .*model\.safetensors"):
        collect([copy.path])


def test_the_command_line_accepts_where_it_is_told(copy, capsys, monkeypatch):
    (path,) = copy.records_folder.glob("*.json")
    path.write_text(path.read_text().replace('"eval_seed": 0', '"eval_seed": 1'))
    page = copy.path / "page.html"
    arguments = ["report", str(copy.path), "--out", str(page)]
    monkeypatch.setattr("sys.argv", ["corral", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert not page.exists()
    assert "edited since it was written" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["corral", "--accept-edited", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"read all the same: {path.name} of at" in page.read_text()
