import json

import pytest
from safetensors.torch import load_file
from tests.test_cli import SMALL
from typer.testing import CliRunner

from corral import cli
from corral.errors import UsageError
from corral.training import Training, load_model


def called(*arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_seeds_make_a_run_each_the_same_as_one_by_one(here):
    lines = called("train", "nominal", "--seeds", 4, 5, "--out", "runs/n", *SMALL).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["runs/n-4", "runs/n-5", "made 2 runs, one a seed", "next"]
    assert lines[-1] == "next: corral evaluate runs/n-4 runs/n-5"
    alone = called("train", "nominal", "--seed", 5, "--out", "alone", *SMALL)
    assert alone.exit_code == 0
    one, two = (load_file(here / run / "model.safetensors") for run in ("runs/n-5", "alone"))
    assert all((one[name] == two[name]).all() for name in one)
    assert [load_model(here / f"runs/n-{seed}")[2].seed for seed in (4, 5)] == [4, 5]


@pytest.mark.parametrize(
    "given",
    ["--seeds 4 5 nominal --json", "nominal --json --seeds 4 --seeds 5", "nominal --seeds=4 5 4 --json"],
)
def test_seeds_follow_the_option_wherever_it_stands(here, monkeypatch, given):
    asked = []
    monkeypatch.setattr("corral.training.train", lambda recipe, **_: asked.append(recipe.training.seed) or here)
    monkeypatch.setattr("corral.cli.train._facts", lambda folder: {})
    assert called("train", *given.split()).exit_code == 0
    assert asked == [4, 5]


def test_an_interrupted_call_of_several_seeds_goes_on_with_resume(here, monkeypatch):
    command = ["train", "nominal", "--seeds", 0, 1, 2, "--json", *SMALL]
    whole = Training.execute

    def second(run):
        if run.recipe.training.seed == 1:
            raise KeyboardInterrupt
        whole(run)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "execute", second)
        result = called(*command)
    assert result.exit_code == 130
    assert "1 of 3 runs are finished, of runs/nominal-digits-1 no epoch was finished" in result.stderr
    assert "the same command with --resume goes on" in result.stderr
    first = (here / "runs/nominal-digits-0/model.safetensors").stat().st_mtime_ns
    made = json.loads(called(*command, "--resume").stdout)
    assert [run["seed"] for run in made] == [0, 1, 2]
    assert (here / "runs/nominal-digits-0/model.safetensors").stat().st_mtime_ns == first


def test_what_one_of_several_seeds_would_be_refused_for_is_said_before_the_first_is_trained(here):
    called("train", "nominal", "--seed", 1, *SMALL)
    with pytest.raises(UsageError, match="nominal-digits-1: holds a run already"):
        called("train", "nominal", "--seeds", 0, 1, *SMALL)
    assert not (here / "runs/nominal-digits-0").exists()
    with pytest.raises(UsageError, match="holds no run to resume"):
        called("train", "at", "--seeds", 0, 1, "--resume", *SMALL)
    with pytest.raises(UsageError, match=r"--out \.: with --seeds it needs a name"):
        called("train", "at", "--seeds", 0, 1, "--out", ".")
    with pytest.raises(UsageError, match="--seeds names every seed, found --seed 3 too"):
        called("train", "at", "--seeds", 0, 1, "--seed", 3)


def test_the_last_line_counts_the_epochs_that_were_asked_for(here):
    warm = [*SMALL, "--set", "warm_start.epochs=1"]
    (line, _) = called("train", "nominal", *warm).stdout.splitlines()
    assert ", 1 epochs after 1 of warm start, " in line
    assert "1 epochs after 1 of warm start" in called("show", "runs/nominal-digits-0").stdout
