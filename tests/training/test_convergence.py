"""Training that ends before its epochs are used up: the rules by hand, and runs that obey them."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.cli import app
from corral.errors import CorralError, UsageError
from corral.training import Run, Training, load_model, load_recipe, read_metrics, shipped_recipes
from corral.training.convergence import Ending, converged, settled, since_best
from corral.training.methods import Method
from corral.training.recipes.recipe import Convergence, TrainingConfig

SERIES = [0.50, 0.80, 0.90, 0.901, 0.895, 0.903, 0.902, 0.90, 0.99]
HELD = {"data.validation": 60, "training.epochs": 8}
RULE = {"converged.tolerance": 0.01, "converged.epochs": 2}
PATIENT = {"training.patience": 3}


def first(series, *, tolerance, epochs, settled=0):
    """The epoch after which training would end; None where it would not."""
    rule = Convergence(tolerance=tolerance, epochs=epochs)
    ends = (t for t in range(1, len(series) + 1) if converged(series[:t], rule, settled=settled))
    return next(ends, None)


@pytest.mark.parametrize(
    ("tolerance", "epochs", "after"),
    [
        # Best before 0.90 (epoch 3); epochs 4 and 5 bring 0.901, no more than 0.002 above.
        (0.002, 2, 5),
        # Without tolerance epoch 4 is a gain over 3, and 6 over 4; 7 and 8 bring none.
        (0.0, 2, 8),
        # Epochs 4 to 6 bring 0.903, which is 0.003 above epoch 3: with 0.003 it is within, with less it is not.
        (0.003, 3, 6),
        # ... then epochs 5 to 7 bring 0.903 over 0.901.
        (0.002, 3, 7),
        # A single epoch: 4 after 3.
        (0.002, 1, 4),
        # A tolerance as large as the step from 0.80 to 0.90.
        (0.1, 1, 3),
        # Nothing is before the first nine epochs; before the last seven is 0.80, and the ninth is a jump.
        (0.002, 9, None),
        (0.002, 7, None),
    ],
)
def test_the_epoch_of_convergence_by_hand(tolerance, epochs, after):
    assert first(SERIES, tolerance=tolerance, epochs=epochs) == after


def test_a_gain_of_exactly_the_tolerance_is_within_it_whatever_the_rounding():
    # 452/500 - 451/500 is 0.0020000000000000018 in float64.
    assert 452 / 500 - 451 / 500 > 0.002
    assert first([451 / 500, 452 / 500], tolerance=0.002, epochs=1) == 2
    assert first([451 / 500, 453 / 500], tolerance=0.002, epochs=1) is None


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 6), st.integers(0, 5))
def test_the_rule_is_its_definition_counted_in_images(counts, epochs, tolerance, settled):
    rule = Convergence(tolerance=tolerance / 20, epochs=epochs)
    before, last = counts[:-epochs], counts[-epochs:]
    meant = bool(before) and len(before) >= settled and all(count - max(before) <= tolerance for count in last)
    assert converged([count / 20 for count in counts], rule, settled=settled) is meant


def test_epochs_before_the_last_change_of_the_rate_are_no_plateau():
    flat = [0.5] * 12
    assert first(flat, tolerance=0.0, epochs=2) == 3
    assert first(flat, tolerance=0.0, epochs=2, settled=7) == 9
    assert settled(TrainingConfig(epochs=20, schedule="steps", milestones=[3, 7])) == 7
    assert settled(TrainingConfig(epochs=20, warm_up=4)) == 4
    assert settled(TrainingConfig(epochs=20)) == 0


@pytest.mark.parametrize(
    ("series", "settled", "since"),
    [
        ([], 0, 0),
        ([0.3], 0, 0),
        ([0.3, 0.4, 0.2], 0, 1),
        # An equal accuracy is no new best.
        ([0.3, 0.4, 0.4, 0.4], 0, 2),
        ([0.0, 0.0], 0, 1),
        # Epochs before the last change of the rate do not count, a best after it does.
        ([0.4, 0.3, 0.3, 0.3, 0.3], 3, 2),
        ([0.4, 0.3], 3, 0),
        ([0.4, 0.3, 0.3, 0.5, 0.3], 3, 1),
    ],
)
def test_epochs_since_the_best_by_hand(series, settled, since):
    assert since_best(series, settled=settled) == since


@pytest.mark.parametrize(
    ("ending", "document", "words"),
    [
        (
            Ending(converged=True, epochs=7),
            {"converged": True, "epochs": 7, "warm_epochs": 0},
            "converged after 7 epochs",
        ),
        (
            Ending(converged=False, epochs=7, warm_epochs=2),
            {"converged": False, "epochs": 7, "warm_epochs": 2},
            "not converged in 7 epochs",
        ),
        (Ending(epochs=7), {"epochs": 7, "warm_epochs": 0}, "not stopped early"),
        (
            Ending(epochs=7, stopped="patience"),
            {"epochs": 7, "warm_epochs": 0, "stopped": "patience"},
            "stopped after 7 epochs: held-out PGD accuracy rose no more",
        ),
        (
            Ending(converged=False, epochs=7, stopped="collapse"),
            {"converged": False, "epochs": 7, "warm_epochs": 0, "stopped": "collapse"},
            "stopped by catastrophic overfitting in epoch 7: the weights before it are saved",
        ),
    ],
)
def test_every_ending_is_said_and_what_earlier_versions_wrote_is_written_as_then(ending, document, words):
    assert ending.model_dump() == json.loads(ending.model_dump_json()) == document
    assert Ending.model_validate(document) == ending
    assert ending.words() == words


@pytest.fixture
def scored(monkeypatch):
    """Lets the validation of the epochs, the warm start's among them, give these clean accuracies in turn."""

    def give(*scores):
        left = iter(scores)

        def validated(self, images):
            score = next(left)
            return {"validation_clean": score, "validation_pgd": score / 2}

        monkeypatch.setattr(Method, "validated", validated)

    return give


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_run_ends_where_the_rule_says_and_tells_so(tiny, scored, select):
    # The warm epoch's 0.9 is no part of the method's series: 0.3, 0.6, 0.605, 0.59 end after the fourth.
    scored(0.9, 0.3, 0.6, 0.605, 0.59, 0.99)
    folder = Run(tiny("clustr", **HELD, **RULE, select=select))
    metrics = read_metrics(folder.metrics_file)
    assert [entry["phase"] for entry in metrics] == ["warm start", *["clustr"] * 4]
    assert [entry.get("converged") for entry in metrics] == [None, False, False, False, True]
    info = load_model(folder.path)[2]
    assert (info.ending.converged, info.ending.epochs, info.ending.warm_epochs) == (True, 4, 1)
    assert info.ending.words() == "converged after 4 epochs"
    # The kept weights may be of an earlier epoch; what the run took is that of all.
    assert info.epochs == {"last": 5, "best": 4}[select]
    assert (info.train_seconds, info.work_seconds) == (metrics[-1]["train_seconds"], metrics[-1]["work_seconds"])


def test_a_run_that_goes_on_rising_is_not_converged_in_its_epochs(tiny, scored):
    scored(*(0.1 * epoch for epoch in range(1, 9)))
    folder = Run(tiny("magnet", **HELD, **RULE, **{"warm_start.epochs": 0}))
    ending = load_model(folder.path)[2].ending
    assert (ending.converged, ending.epochs, ending.warm_epochs) == (False, 8, 0)
    assert ending.words() == "not converged in 8 epochs"
    assert [entry["converged"] for entry in read_metrics(folder.metrics_file)] == [False] * 8


def test_convergence_at_the_last_epoch_is_convergence(tiny, scored):
    scored(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6)
    ending = load_model(tiny("magnet", **HELD, **RULE, **{"warm_start.epochs": 0}))[2].ending
    assert (ending.converged, ending.epochs) == (True, 8)


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_run_ends_where_accuracy_under_pgd_has_no_new_best_for_so_many_epochs(tiny, scored, select):
    # The warm epoch's 0.9 is no part of the method's series: 0.3, 0.6, 0.5, 0.6 end after the fourth.
    scored(0.9, 0.3, 0.6, 0.5, 0.6, 0.99)
    folder = Run(tiny("clustr", **HELD, patience=2, select=select))
    metrics = read_metrics(folder.metrics_file)
    assert [entry.get("epochs_since_best") for entry in metrics] == [None, 0, 0, 1, 2]
    info = load_model(folder.path)[2]
    assert info.ending == Ending(epochs=4, warm_epochs=1, stopped="patience")
    # "best" is saved where it is asked for; "last" are the weights that training ended with.
    assert info.epochs == {"last": 5, "best": 3}[select]
    assert info.validation["validation_pgd"] == 0.3


def test_a_run_that_goes_on_rising_uses_up_its_epochs_and_says_so(tiny, scored):
    scored(*(0.1 * epoch for epoch in range(1, 9)))
    ending = load_model(tiny("magnet", **HELD, patience=1, **{"warm_start.epochs": 0}))[2].ending
    assert ending == Ending(epochs=8)


def test_convergence_is_said_where_both_criteria_are_met(tiny, scored):
    scored(0.9, 0.3, 0.6, 0.605, 0.59, 0.99)
    ending = load_model(tiny("clustr", **HELD, **RULE, patience=1))[2].ending
    assert ending == Ending(converged=True, epochs=4, warm_epochs=1)
    scored(0.9, 0.3, 0.6, 0.5, 0.99)
    ending = load_model(tiny("clustr", "other", **HELD, **RULE, patience=1))[2].ending
    assert ending == Ending(converged=False, epochs=3, warm_epochs=1, stopped="patience")


def test_a_resumed_run_counts_on_where_it_was_killed(tiny, scored, monkeypatch):
    scored(0.3, 0.6, 0.5, 0.6, 0.99)
    given = HELD | {"patience": 2, "select": "best", "warm_start.epochs": 0}
    original = Training._save
    for number in range(4):  # in every epoch once: it is saved, then the process dies

        def killed(*arguments):
            original(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save", killed)
            with pytest.raises(KeyboardInterrupt):
                tiny("clustr", resume=number > 0, **given)
    info = load_model(tiny("clustr", resume=True, **given))[2]
    assert (info.epochs, info.ending) == (2, Ending(epochs=4, stopped="patience"))


def test_a_run_without_the_criterion_makes_all_epochs_and_has_no_ending(tiny, scored):
    scored(*[0.5] * 9)
    folder = Run(tiny("clustr", **HELD))
    assert load_model(folder.path)[2].ending is None
    metrics = read_metrics(folder.metrics_file)
    assert len(metrics) == 9
    assert not any("converged" in entry for entry in metrics)


def test_a_killed_run_ends_at_the_epoch_and_the_bits_of_one_that_was_not(tiny, monkeypatch):
    overrides = HELD | {"converged.tolerance": 0.05, "converged.epochs": 3, "select": "best", "epochs": 30}
    del overrides["training.epochs"]
    whole = Run(tiny("clustr", "whole", **overrides))
    ending = load_model(whole.path)[2].ending
    assert ending.converged
    assert 4 <= ending.epochs < 30
    original = Training._save
    for number in range(ending.epochs + 1):  # in every epoch once: it is saved, then the process dies
        done = []

        def once(self, numbers, done=done):
            if done:
                raise KeyboardInterrupt
            original(self, numbers)
            done.append(1)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save", once)
            if number < ending.epochs:
                with pytest.raises(KeyboardInterrupt):
                    tiny("clustr", "cut", resume=number > 0, **overrides)
            else:  # the last epoch ends the run
                tiny("clustr", "cut", resume=True, **overrides)
    cut = Run(whole.path.with_name("cut"))
    assert load_model(cut.path)[2].ending == ending
    one, two = (read_checkpoint(folder.model_file, kind="model")[0] for folder in (whole, cut))
    assert one.keys() == two.keys()
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert len(read_metrics(cut.metrics_file)) == ending.epochs + 1


def test_a_run_killed_between_its_last_epoch_and_its_model_makes_no_further_epoch(tiny, scored, monkeypatch):
    scored(0.9, 0.3, 0.6, 0.605, 0.59, 0.99)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("clustr", **HELD, **RULE)
    info = load_model(tiny("clustr", resume=True, **HELD, **RULE))[2]
    assert (info.epochs, info.ending.epochs, info.ending.converged) == (5, 4, True)


def test_a_checkpoint_without_its_accuracies_is_one_line(tiny, monkeypatch, scored, tmp_path):
    scored(0.9, 0.3, 0.6, 0.605, 0.59, 0.99)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("clustr", **HELD, **RULE)
    state = Run(tmp_path / "run").state_file
    saved, metadata = read_checkpoint(state, kind="training")
    write_checkpoint(state, saved, metadata | {"accuracies": metadata["accuracies"][1:]})
    with pytest.raises(CorralError, match="validation accuracies of 3 epochs, expected 4"):
        tiny("clustr", resume=True, **HELD, **RULE)


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("magnet", {}, r"training\.converged needs held-out images: set data\.validation above 0"),
        ("simclr", {"data.validation": 50}, r"method 'simclr' has no accuracy that converges"),
        ("magnet", {"data.validation": 50, "training.epochs": 2}, r"converged\.epochs must be below the 2 epochs"),
        ("magnet", {"data.validation": 50, "schedule": "cosine"}, r"'constant' or 'steps'"),
        ("magnet", {"data.validation": 50, "converged.tolerance": -0.1}, r"training\.converged\.tolerance"),
        ("magnet", {"data.validation": 50, "converged.epochs": 0}, r"training\.converged\.epochs"),
        ("magnet", PATIENT, r"training\.patience needs held-out images: set data\.validation above 0"),
        (
            "simclr",
            PATIENT | {"data.validation": 50},
            r"has no accuracy under attack: leave training\.patience",
        ),
        (
            "magnet",
            PATIENT | {"data.validation": 50, "training.epochs": 3},
            r"patience must be below the 3 epochs",
        ),
        ("magnet", {"training.patience": 0}, r"training\.patience"),
        ("magnet", {"data.validation": 50, "converged.patience": 3}, r"unknown recipe key 'converged\.patience'"),
    ],
)
def test_what_has_nothing_to_converge_is_refused_in_one_line(recipe, overrides, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(recipe, overrides=(RULE if "training.patience" not in overrides else {}) | overrides)
    assert "\n" not in str(caught.value)


def test_the_criterion_is_written_only_where_it_is_and_taken_out_as_a_whole(tmp_path):
    for name in shipped_recipes():
        # The name of a run's folder is a digest of this text.
        assert "converged" not in load_recipe(name).to_toml()
        assert "patience" not in load_recipe(name).to_toml()
    given = load_recipe("magnet", overrides={"data.validation": 50} | RULE)
    path = tmp_path / "mine.toml"
    path.write_text(given.to_toml())
    assert load_recipe(path) == given
    assert load_recipe(path).training.converged == Convergence(tolerance=0.01, epochs=2)
    assert load_recipe(path, overrides={"converged": None}) == load_recipe("magnet", overrides={"data.validation": 50})


def test_the_command_line_tells_how_training_ended(tmp_path):
    settings = {"data.train": 120, "data.validation": 60, "model.width": 4, "converged.epochs": 2}
    given = [f"--set={key}={value}" for key, value in {**settings, "converged.tolerance": 1.0}.items()]
    arguments = ["train", "magnet", "--out", str(tmp_path / "run"), "--epochs", "9", "--quiet", *given]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "3 epochs, converged after 3 epochs" in result.output
    result = CliRunner().invoke(app, [*arguments, "--resume", "--json"], catch_exceptions=False)
    told = json.loads(result.output)
    assert told["ending"] == {"converged": True, "epochs": 3, "warm_epochs": 0}
    assert told["work_clock"] == "cpu"


@pytest.mark.slow
def test_importing_the_package_does_not_depend_on_the_order(tmp_path):
    for module in ("corral.records", "corral.training.convergence", "corral.papers.result"):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
