import json
import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from corral import cli
from corral.checkpoints import write_checkpoint
from corral.cli.headers import read_header, weights_fingerprint
from corral.cli.run_facts import read_run
from corral.errors import CorralError, UsageError
from corral.models.fingerprint import fingerprint
from corral.training import load_model, train

SMALL = {"data.train": 100, "width": 4, "model.features": 8, "epochs": 1, "warm_start.epochs": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with a record, and one that was interrupted in its second epoch."""
    from corral.evaluation import evaluate
    from corral.training import Training

    base = tmp_path_factory.mktemp("runs")
    train("nominal", out=base / "done", progress=False, seed=3, **SMALL)
    record = evaluate(base / "done", n=20, attacks=["pgd_ce", "fgsm"], progress=False)
    step = Training._epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_epoch", lambda run, bar: step(run, bar) if run.epoch < 2 else bar.missing)
        with pytest.raises(AttributeError):
            train("corral", out=base / "cut", progress=False, **SMALL | {"warm_start.epochs": 1, "epochs": 4})
    return base, record


@pytest.fixture
def copy(made, tmp_path):
    """A copy that a test may damage."""
    import shutil

    return shutil.copytree(made[0], tmp_path / "runs")


def called(*arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_finished_and_an_unfinished_run_are_one_line_each(made):
    base, record = made
    header, cut, done = called("runs", base).splitlines()
    assert header.split()[:7] == ["run", "recipe", "data", "eps", "seed", "state", "clean"]
    assert cut.split() == [
        *(str(base / "cut"), "corral", "digits", "Linf", "0.1", "0"),
        *["unfinished,", "epoch", "1/4", "–", "–"],
    ]
    lowest = min(attack.accuracy for attack in record.attacks)
    found = f"done nominal digits Linf 0.1 3 finished {100 * record.clean:.1f} custom {100 * lowest:.1f} (n 20)"
    assert done.removeprefix(f"{base}/").split() == found.split()


def test_what_is_read_without_torch_is_what_torch_reads(made):
    base, record = made
    model, spec, info = load_model(base / "done")
    (told,) = (run for run in json.loads(called("runs", base, "--json")) if run["run"].endswith("done"))
    assert told["info"] == info.model_dump(mode="json")
    assert told["spec"] == spec.model_dump(mode="json")
    assert told["records"][0]["attacks"] == {attack.name: attack.accuracy for attack in record.attacks}
    shown = json.loads(called("show", base / "done", "--json"))
    values = sum(tensor.numel() for tensor in model.state_dict().values())
    assert shown["model"] == {"values": values, "fingerprint": fingerprint(model)}


def test_show_tells_how_a_run_was_made_and_what_was_measured(made):
    base, record = made
    text = " ".join(called("show", base / "done").split())
    for words in (
        "state finished",
        "data digits, 100 training images",
        "convnet (width 4, features 8",
        "made by corral 0.1.0",
        f"custom at Linf 0.1, 20 of 500 images, {record.created[:10]}: clean {100 * record.clean:.1f}, pgd_ce ",
    ):
        assert words in text
    assert "unfinished, epoch 1/4" in called("show", base / "cut")


def test_a_process_at_work_is_seen_by_its_lock(copy):
    (copy / "cut" / ".train.lock").write_text("{}")
    assert read_run(copy / "cut").state == "in training"
    os.utime(copy / "cut" / ".train.lock", (time.time() - 60,) * 2)
    assert read_run(copy / "cut").state == "unfinished"


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-9])


def _foreign(path):
    save_file({"weight": torch.ones(3)}, path)


def _edited(path):
    head, *rest = path.read_text().partition("epoch" if path.suffix != ".json" else "clean")
    path.write_text(head + "".join(rest).replace("1", "2", 1))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("done/model.safetensors", _truncated, "truncated or not a safetensors file"),
        ("done/model.safetensors", _foreign, "not a corral file"),
        ("done/model.safetensors", lambda path: path.write_bytes(b""), "truncated or not a safetensors file"),
        ("done/recipe.toml", _edited, "edited since it was written"),
        ("done/metrics.jsonl", _edited, "edited since it was written"),
        ("done/records/custom-n20.json", _edited, "edited since it was written"),
        ("done/records/custom-n20.json", lambda path: path.write_text("{"), "not JSON"),
        ("done/records/custom-n20.json", lambda path: path.write_text('{"format": "corral-record-1"}'), "not a corral"),
        ("cut/recipe.toml", lambda path: path.write_text("name = 3"), "not a run's recipe"),
        ("cut/checkpoints/last.safetensors", _truncated, "truncated or not a safetensors file"),
    ],
)
def test_a_damaged_file_is_a_line_that_says_so_and_hides_no_other_run(copy, file, damage, words):
    damage(copy / file)
    _, *rows, last = called("runs", copy).splitlines()
    assert len(rows) == 2
    assert last.startswith(f"damaged: {copy / file}: ")
    assert words in last
    shown = called("show", copy / file.split("/")[0]).splitlines()[-1]
    assert shown.split(maxsplit=1) == last.replace(":", "", 1).split(maxsplit=1)
    assert words in json.loads(called("show", copy / file.split("/")[0], "--json"))["problems"][-1]


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("info", "seed", "x"), ("info", "epochs", True), ("info", "validation", {"a": "b"}), ("spec", "image_shape", 3)],
)
def test_a_description_of_other_kinds_is_damaged(copy, part, name, value):
    path = copy / "done" / "model.safetensors"
    metadata, _ = read_header(path)
    metadata[part][name] = value
    write_checkpoint(path, load_file(path), metadata)
    assert f"damaged: {path}: its description is damaged ({name})" in called("runs", copy)
    assert read_run(copy / "done").state == "damaged"


def test_a_record_of_other_weights_is_told(copy):
    path = copy / "done" / "records" / "custom-n20.json"
    content = json.loads(path.read_text())
    content |= {"format": "corral-record-1", "model_fingerprint": "0" * 16}
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert "(of other weights than the model)" in called("show", copy / "done")


def test_heads_pages_and_analyses_are_listed(copy):
    (copy / "done" / "analyses").mkdir()
    (copy / "done" / "analyses" / "norms.json").write_text('{"format": "corral-analysis-1"}')
    (copy / "done" / "analyses" / "page.html").touch()
    (copy / "done" / "linear" / "done-slf").mkdir(parents=True)
    (copy / "done" / "linear" / "done-slf" / "model.safetensors").touch()
    text = called("show", copy / "done")
    for words in ("analyses norms", f"pages {copy}/done/analyses/page.html", f"heads {copy}/done/linear/done-slf"):
        assert words in " ".join(text.split())
    assert f"{copy}/done/linear/done-slf" in called("runs", copy)


def test_records_of_a_model_that_is_no_run_are_listed_beside_runs(copy):
    (copy / "measured").mkdir()
    (copy / "done" / "records").rename(copy / "measured" / "records")
    rows = {line.split()[0]: line.split() for line in called("runs", copy).splitlines()}
    assert rows[f"{copy}/measured"][1:7] == ["–", "digits", "Linf", "0.1", "–", "measured"]
    assert rows[f"{copy}/measured"][8] == "custom"
    assert rows[f"{copy}/done"][-2:] == ["–", "–"]
    text = " ".join(called("show", copy / "measured").split())
    assert "model done data digits threat Linf 0.1, in pixel units record custom at Linf 0.1, 20 of 500" in text
    (copy / "measured" / "records" / "custom-n20.json").write_text("{")
    assert "custom-n20.json: not JSON" in called("runs", copy).splitlines()[-1]


def test_a_folder_called_records_of_something_else_is_none(copy):
    (copy / "music" / "records").mkdir(parents=True)
    (copy / "music" / "records" / "a.json").write_text("{}")
    assert "music" not in called("runs", copy)


def test_certificates_are_told(copy):
    (copy / "done" / "certificates").mkdir()
    at = [{"radius": 0.0, "certified": 0.9}, {"radius": 36 / 255, "certified": 0.5}]
    content = {"format": "corral-certificate-1", "n": 10, "n_test": 20, "clean": 0.9, "lipschitz": 1, "median": 0.1}
    (copy / "done" / "certificates" / "l2.json").write_text(json.dumps({**content, "broken": 0, "at": at}))
    (copy / "done" / "certificates" / "other.json").write_text(json.dumps(content))
    text = called("show", copy / "done")
    assert "l2.json: 10 images, clean 90.0, certified 90.0 at 0, 50.0 at 36/255" in text
    assert f"{copy}/done/certificates/other.json: not a corral certificate ('at')" in text


def test_nothing_to_list_is_said_and_no_folder_is_refused(tmp_path):
    assert called("runs", tmp_path) == f"no runs below {tmp_path}; `corral train RECIPE` makes one\n"
    for command in ("runs", "show"):
        with pytest.raises(UsageError, match="no such"):
            called(command, tmp_path / "none")
    with pytest.raises(UsageError, match="not a run folder"):
        called("show", tmp_path)


def test_a_header_is_not_believed_beyond_its_file(tmp_path):
    for content in (b"\xff" * 8, (3).to_bytes(8, "little") + b"{}}", (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CorralError, match="truncated or not a safetensors file"):
            read_header(tmp_path / "model.safetensors")


def test_the_fingerprint_is_that_of_the_tensors(tmp_path):
    layer = torch.nn.Conv2d(2, 3, 5)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    assert weights_fingerprint(tmp_path / "layer.safetensors") == fingerprint(layer)
