"""Runs on data given as objects: trained, measured, resumed and recognised by their fingerprint."""

import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import corral
from corral.analysis.analyze import analyze
from corral.cli import app
from corral.data import DataSet, from_arrays, load
from corral.errors import CorralError, UsageError
from corral.evaluation.certification import certify_run
from corral.evaluation.fit_heads import fitted_heads
from corral.models.fingerprint import fingerprint
from corral.training import load_model

SMALL = {"epochs": 1, "model.backbone": "mlp", "model.hidden": [8], "threat.eps": 0.1, "training.batch_size": 8}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
Y = torch.arange(30) % 2
X = (torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + Y.view(-1, 1, 1, 1)) / 2
OTHER = X.flip(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on (x, y)."""
    return corral.train("corral", data=(X, Y), out=tmp_path_factory.mktemp("own") / "run", **QUIET, **SMALL)


def verbs(run: Path) -> dict[str, Callable[[Any], Any]]:
    """What measures a run on data."""
    return {
        "evaluate": lambda data: corral.evaluate(run, attacks=["fgsm"], data=data, **QUIET),
        "certify": lambda data: certify_run(run, radii=[0.1], attack=False, data=data, **QUIET),
        "analyze": lambda data: analyze(run, only=["compactness"], data=data, **QUIET)["compactness"],
        "heads": lambda data: fitted_heads(run, ["nearest"], data=data, **QUIET),
    }


def test_the_run_records_an_object_and_trains_as_on_a_file(run: Path, tmp_path: Path) -> None:
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    assert recipe["data"]["name"] == "own/arrays"
    np.savez(tmp_path / "x.npz", images=X[:, 0].numpy(), labels=Y.numpy())
    by_file = corral.train("corral", data=f"npz:{tmp_path / 'x.npz'}", out=tmp_path / "run", **QUIET, **SMALL)
    own, info = load_model(run)[0], load_model(run)[2]
    assert fingerprint(own) == fingerprint(load_model(by_file)[0])
    assert (info.data, info.data_fingerprint) == ("own/arrays", load((X, Y)).fingerprint)


def test_every_verb_takes_the_object_again_in_any_form_and_asks_for_it_in_one_line(run: Path) -> None:
    info = load_model(run)[2]
    for verb, call in verbs(run).items():
        if verb != "heads":
            with pytest.raises(UsageError) as caught:
                call(None)
            assert str(caught.value) == (
                f"{run}: trained on own/arrays, data given as an object, fingerprint {info.data_fingerprint}: give the "
                "same again, data=... in Python, or --data file.py:function that returns them"
            )
        with pytest.raises(CorralError, match=f"{run}: trained on other data: own/arrays has fingerprint") as refused:
            call((OTHER, Y))
        assert "give all of the run's data, its training part too, or instead of the run its model" in str(
            refused.value
        )
        found = call((X[:, 0].numpy(), Y.tolist()))
        again = call(TensorDataset(X, Y))
        if verb == "heads":
            assert [load_model(head)[2].data for head in (*found, *again)] == ["own/arrays"] * 2
        else:
            assert found.model_fingerprint == again.model_fingerprint
    record = corral.evaluate(run, attacks=["fgsm"], data=load((X, Y)), **QUIET)
    assert (record.data, record.data_fingerprint, record.n) == ("own/arrays", info.data_fingerprint, 6)
    assert "own/arrays (arrays; no test part in the source: a fixed stratified fifth" in record.notes[0]


def test_an_audit_of_the_run_takes_its_test_part_and_of_a_module_all_images(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("corral.audit.audit")
    monkeypatch.setattr(module, "_measured", lambda session, *settings: session.given)  # no attack is run
    of_run: Any = corral.audit(str(run), (X, Y), **QUIET)
    of_module: Any = corral.audit(corral.load(run), (X, Y), eps=0.1, **QUIET)
    assert (of_run.available, of_module.available) == (6, 30)
    assert (of_run.data.name, of_module.data.name, of_module.note) == (
        "own/arrays",
        "own/arrays",
        "arrays; all 30 images",
    )
    assert of_run.data.fingerprint == load((X, Y)).fingerprint != of_module.data.fingerprint
    with pytest.raises(UsageError, match="trained on own/arrays, data given as an object"):
        corral.audit(str(run), None, **QUIET)


def test_a_run_goes_on_and_is_repeated_with_the_object(run: Path, tmp_path: Path) -> None:
    assert corral.train(run, data=(X, Y), out=run, resume=True, **QUIET) == run
    again = corral.train(run, data=TensorDataset(X, Y), out=tmp_path / "again", **QUIET, **SMALL)
    assert fingerprint(load_model(again)[0]) == fingerprint(load_model(run)[0])
    with pytest.raises(UsageError, match=r"own/arrays: data that were given as an object, which no name leads to"):
        corral.train(run, out=tmp_path / "third", **QUIET)
    with pytest.raises(UsageError, match=r"data.name 'digits' beside data=own/arrays: leave one of them out"):
        corral.train("at", data=(X, Y), out=tmp_path / "third", **QUIET, **SMALL, **{"data.name": "digits"})
    assert not (tmp_path / "third").exists()


def test_the_shell_names_a_function_that_returns_the_data(run: Path, tmp_path: Path) -> None:
    torch.save(X, tmp_path / "x.pt")
    (tmp_path / "mine.py").write_text(
        f"import torch\n\n\ndef data():\n    return torch.load({str(tmp_path / 'x.pt')!r}), torch.arange(30) % 2\n"
    )
    arguments = ["evaluate", str(run), "--attack", "fgsm", "--quiet", "--device", "cpu"]
    assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)
    result = CliRunner().invoke(app, [*arguments, "--data", f"{tmp_path / 'mine.py'}:data"])
    assert result.exit_code == 0, result.output


def test_colour_images_have_a_preset_and_others_need_settings(tmp_path: Path) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    small = {"epochs": 1, "training.batch_size": 4, "model.width": 4, "method.inner.steps": 1}
    run = corral.train("at", data=(images, Y[:8], images, Y[:8]), out=tmp_path / "run", **QUIET, **small)
    assert tomllib.loads((run / "recipe.toml").read_text())["preset"] == "images"
    with pytest.raises(
        UsageError, match=re.escape("own/arrays has images of (1, 4, 4) (C, H, W), the preset 'images'")
    ):
        corral.train("at", data=(X, Y), out=tmp_path / "gray", **QUIET)


def test_a_data_set_with_a_name_is_trained_on_by_that_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=OTHER[:, 0].numpy(), labels=Y.numpy())
    name = f"npz:{tmp_path / 'x.npz'}"
    named = from_arrays(X, Y, X[:6], Y[:6], name=name)
    run = corral.train("nominal", data=named, out=tmp_path / "run", **QUIET, **SMALL)
    assert load_model(run)[2].data == name
    with pytest.raises(CorralError, match=f"trained on other data: {name} has fingerprint"):
        corral.evaluate(run, attacks=["fgsm"], **QUIET)  # the name leads to a file, which these are not
    assert corral.evaluate(run, attacks=["fgsm"], data=named, **QUIET).n == 6
    other = DataSet("birds", named.classes, named.train, named.test)
    run = corral.train("nominal", data=other, out=tmp_path / "birds", **QUIET, **SMALL)
    assert load_model(run)[2].data == "own/birds"


WRONG: dict[str, Any] = {
    "a tensor": X,
    "an array": X.numpy(),
    "a dictionary": {"image": X, "label": Y},
    "a list": [1, 2],
    "a number": 7,
    "a module": torch.nn.Flatten(),
    "a path": Path("photos"),
}


@pytest.mark.parametrize("kind", [*WRONG, "nothing"])
def test_a_wrong_type_is_one_line_in_every_verb(kind: str, run: Path, tmp_path: Path) -> None:
    data, module = WRONG.get(kind), corral.load(run)
    calls = {
        **verbs(run),
        "train": lambda data: corral.train("at", data=data, out=tmp_path / "run", **QUIET, **SMALL),
        "audit": lambda data: corral.audit(str(run), data, minutes=0.02, **QUIET),
        "audit a module": lambda data: corral.audit(module, data, eps=0.1, minutes=0.02, **QUIET),
        "load": load,
    }
    if kind == "nothing":  # a recipe's own data are a default; the encoder's data are asked for when a head is fitted
        del calls["train"], calls["heads"]
    for verb, call in calls.items():
        with pytest.raises(UsageError) as caught:
            call(data)
        message = str(caught.value)
        assert "\n" not in message, verb
        assert len(message) < 400, verb
        assert kind == "nothing" or message.startswith("data: found "), verb
    assert not (tmp_path / "run").exists()
    if kind not in ("a tensor", "an array"):  # which are images, and the labels are given beside them
        with pytest.raises(ValueError, match=r"^images must be [^\n]{1,100}$"):
            corral.diagnose(module, data, Y, eps=0.1)


def test_a_tensor_in_the_place_of_a_name_is_never_printed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a recipe is a name, a path or a corral Recipe, found Tensor$"):
        corral.train(X, out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^a protocol is named by text, found tuple$"):
        corral.evaluate(run, protocol=(X, Y))  # type: ignore[arg-type]
