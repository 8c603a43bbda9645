import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from corral import cli
from corral.data import DATA_SETS
from corral.training import shipped_recipes

SMALL = [
    "--set",
    "data.train=100",
    "--set",
    "width=4",
    "--set",
    "model.features=8",
    "--set",
    "warm_start.epochs=0",
    "--epochs",
    "1",
    "--quiet",
]
COMMANDS = (
    "compare",
    *("demo", "train", "cluster", "evaluate", "report", "runs", "show", "recipes", "data", "certify", "audit"),
    *("analyze", "reproduce", "export", "models"),
)


@pytest.fixture
def corral(command_line):
    return command_line


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run, a file and a foreign folder."""
    from corral.training import train

    base = tmp_path_factory.mktemp("cli")
    small = {"data.train": 100, "width": 4, "model.features": 8, "epochs": 1, "warm_start.epochs": 0}
    train("nominal", out=base / "run", progress=False, **small)
    (base / "file").write_text("precious")
    (base / "foreign").mkdir()
    (base / "foreign" / "file").write_text("precious")
    (base / "typo.toml").write_text('name = "x"\n[method]\nname = "at"\n[training]\nepohcs = 3\n')
    return base


WRONG_USE = [
    ("train corall --out new", "unknown recipe 'corall'; did you mean 'corral'?"),
    ("train {base}/foreign --out new", "a folder without recipe.toml"),
    ("train {base}/typo.toml --out new", "training.epohcs: unknown key; did you mean 'training.epochs'?"),
    ("train at --out new --set epoch=3", "unknown recipe key 'epoch'; did you mean 'training.epochs'?"),
    ("train at --out new --set epochs", "--set needs key=value, found 'epochs'"),
    ("train at --out new --set epochs=abc", "training.epochs: Input should be a valid integer, found 'abc'"),
    ("train at --out new --set epochs=-1", "training.epochs"),
    ("train at --out new --set alpha=3", "unknown recipe key 'alpha'"),
    ("train at --out new --data minst", "unknown data set 'minst'; did you mean 'mnist'?"),
    ("train at --out new --eps 8", "did you mean 8/255?"),
    ("train at --out new --eps abc", "found 'abc'"),
    ("train at --out new --eps -1", "found -1"),
    ("train at --out new --device nowhere", "device 'nowhere' is not usable here"),
    ("train at --out new --resume", "holds no run to resume"),
    ("train at --out {base}/file", "exists and is not a run; choose another --out"),
    ("train at --out {base}/foreign", "exists and is not a run; choose another --out"),
    ("train nominal --out {base}/run", "holds a run already; continue it with --resume"),
    ("train at --out {base}/run --resume", "the run's recipe differs: name is 'nominal', asked for 'at'"),
    ("train corral --out new --set clusters=500", "method.clusters 500 needs as many training images of every class"),
    ("evaluate {base}/run --eps 8", "did you mean 8/255?"),
    ("analyze {base}/run --eps 0.2", "a run is analysed at the threat that it was trained for: leave --eps out"),
    ("analyze {base}/run --normalise half", "a run is analysed in its own folder, at its own threat"),
    ("evaluate {base}/run --normalise half", "a run takes pixels in [0, 1] as they are: leave --normalise half out"),
    ("evaluate {base}/run --n 501", "a subset of 501 images is impossible: ask for 1 to 500"),
    ("evaluate {base}/run --attack pgd_publishd", "unknown attack 'pgd_publishd'; did you mean 'pgd_published'"),
    *(
        (f"{verb} {{base}}/none", "no such run")
        for verb in ("evaluate", "certify", "analyze", "export", "report", "compare", "show")
    ),
    *((f"{verb} {{base}}/foreign", "in this folder") for verb in ("evaluate", "certify", "analyze", "export")),
    ("report {base}/foreign", "holds no run"),
    ("show {base}/foreign", "not a run folder"),
    ("runs {base}/none", "no such folder"),
    ("audit {base}/none", "no such file or run"),
    ("audit {base}/foreign", "no model.safetensors in this folder"),
    ("audit {base}/none.py:load", "no file"),
    ("audit none.module:load", "no module none.module in"),
    ("train at --out new --set training.start={base}/none --quiet", "no such file; training.start"),
    ("train at --out new --set training.start={base}/foreign --quiet", "no model.safetensors in this folder"),
    ("recipes corall", "unknown recipe 'corall'"),
    ("recipes --data mnist", "--data goes with a recipe's name"),
    ("data minst", "unknown data set 'minst'"),
    ("demo --out {base}/file", "exists and is not a folder"),
]
FAILURES = [
    ("train at --out {base}/file/below --quiet", "cannot be written"),
    ("train at --out new --data npz:{base}/none.npz", "none.npz: cannot be read"),
    ("report {base}/run", "records: no record there; make one with `corral evaluate"),
]


@pytest.mark.parametrize(
    ("line", "message", "expected"),
    [(*case, 2) for case in WRONG_USE] + [(*case, 1) for case in FAILURES],
    ids=[line for line, _ in WRONG_USE + FAILURES],
)
def test_a_mistake_is_one_line_on_stderr_and_its_exit_code(
    corral, base, tmp_path, monkeypatch, line, message, expected
):
    monkeypatch.chdir(tmp_path)
    code, out, err = corral(*line.format(base=base).split())
    assert code == expected
    assert out == ""
    assert err.startswith("corral: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert (base / "file").read_text() == (base / "foreign" / "file").read_text() == "precious"


def test_a_file_name_with_control_characters_stays_on_one_line(corral, tmp_path):
    name = tmp_path / "two\nlines\x1b[31m"
    code, _, err = corral("data", f"folder:{name}")
    assert code == 1
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "two\\nlines\\x1b[31m" in err


@pytest.mark.parametrize(
    "line", ["train at --epochs -1", "train at --nonsense", "evaluate x --n 0", "trian", "train", "demo --threads 0"]
)
def test_what_the_parser_refuses_exits_with_2_and_no_traceback(corral, line):
    code, out, err = corral(*line.split())
    assert code == 2
    assert "Error: " in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("keep", [0, 9, 200, -1])
def test_a_truncated_model_fails_in_one_line(corral, base, tmp_path, keep):
    content = (base / "run" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:keep])
    code, out, err = corral("evaluate", tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "model.safetensors: truncated or not a safetensors file" in err


def test_train_evaluate_report_for_machines(corral, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = corral("train", "nominal", "--out", "run", "--seed", "3", "--json", *SMALL)
    made = json.loads(out)
    assert (code, err) == (0, "")
    assert (made["run"], made["seed"], made["epochs"], made["method"]) == ("run", 3, 1, "nominal")
    evaluate = ["evaluate", "run", "--n", "20", "--eps", "8/255", "--attack", "pgd_ce", "--quiet"]
    code, out, _ = corral(*evaluate, "--json")
    (record,) = json.loads(out)
    assert (code, record["n"], record["eps"], record["reduced"]) == (0, 20, 8 / 255, True)
    code, out, _ = corral(*evaluate)
    header, row = (line.split() for line in out.splitlines())
    assert header == ["run", "n", "eps", "clean", "pgd_ce"]
    assert row == ["run", "20", "of", "500", "0.03137"] + [
        f"{100 * a:.1f}" for a in (record["clean"], record["attacks"][0]["accuracy"])
    ]
    code, out, _ = corral("report", "run", "--out", "page.html", "--json")
    assert (code, json.loads(out)) == (0, {"report": "page.html"})
    assert "<html" in (tmp_path / "page.html").read_text()
    code, out, _ = corral("train", "run", "--resume", "--quiet")
    assert code == 0
    assert out.startswith("run: nominal on digits, 1 epochs")


def test_the_default_folder_names_recipe_data_and_seed(corral, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = corral("train", "nominal", "--seed", "7", *SMALL)
    assert code == 0
    assert (tmp_path / "runs" / "nominal-digits-7" / "model.safetensors").is_file()
    assert "next: corral evaluate runs/nominal-digits-7" in out


@pytest.mark.parametrize(("name", "path"), [("run", "run"), ("at", "./at")], ids=["run", "called as a recipe"])
def test_an_interrupt_says_how_to_continue(corral, tmp_path, monkeypatch, name, path):
    from corral.training import Training

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "execute", interrupt)
        code, _, err = corral("train", "nominal", "--out", name, *SMALL)
    assert code == 130
    assert f"no epoch was finished; continue with: corral train {path} --resume" in err
    assert corral("train", path, "--resume", "--quiet")[0] == 0
    assert corral("evaluate", name, "--n", "20", "--attack", "pgd_ce", "--quiet")[0] == 0


def test_a_folder_called_as_a_recipe_is_no_run_of_it(corral, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nominal").mkdir()
    code, out, _ = corral("train", "nominal", *SMALL)
    assert (code, list((tmp_path / "nominal").iterdir())) == (0, [])
    assert "runs/nominal-digits-0" in out


def test_recipes_are_listed_and_shown_as_toml(corral, tmp_path):
    code, out, _ = corral("recipes", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == list(shipped_recipes())
    assert all(row["summary"] and row["source"] and row["sets"] for row in json.loads(out))
    _, toml, _ = corral("recipes", "corral", "--data", "mnist")
    (tmp_path / "mine.toml").write_text(toml)
    _, shipped, _ = corral("recipes", "corral", "--data", "mnist", "--json")
    _, mine, _ = corral("recipes", tmp_path / "mine.toml", "--json")
    assert json.loads(shipped) == json.loads(mine)


def test_data_sets_are_listed_and_described(corral):
    _, out, _ = corral("data", "--json")
    assert {row["name"] for row in json.loads(out)} == {*DATA_SETS, "folder:PATH", "npz:PATH"}
    _, out, _ = corral("data", "digits", "--json")
    facts = json.loads(out)
    assert (facts["train"], facts["test"], facts["image_shape"], len(facts["classes"])) == (1297, 500, [1, 8, 8], 10)
    _, text, _ = corral("data", "digits")
    assert f"fingerprint: {facts['fingerprint']}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example_that_parses(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: corral {command}" in " ".join(result.output.split())


def test_as_a_module_with_a_closed_or_full_stdout_there_is_no_traceback():
    listing = [sys.executable, "-m", "corral", "recipes"]
    reading, writing = os.pipe()
    os.close(reading)
    closed = subprocess.run(listing, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (closed.returncode, closed.stderr) == (1, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(listing, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "corral: cannot write the output (No space left on device)\n")
