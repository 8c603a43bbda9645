"""FAST-AT: its one step against a twin written from the paper, and its ending where it overfits catastrophically."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.training import Run, Training, load_model, load_recipe, read_metrics, train
from corral.training.convergence import Ending
from corral.training.features import accuracies
from corral.training.ingredients.collapse import collapsed, fallen
from corral.training.methods.fast_at import FastAdversarialTraining

# One-step and PGD accuracies of epochs; PGD accuracy has fallen in the fifth of these, and stays there.
FALLING = [(0.3, 0.2), (0.5, 0.4), (0.55, 0.45), (0.6, 0.3), (0.9, 0.05), (0.99, 0.0), (1.0, 0.0)]


def ends(one_step, robust, drop=0.2):
    """The epochs, from 1, after which the model's accuracy under PGD alone counts as fallen."""
    return [t for t in range(1, len(robust) + 1) if fallen(one_step[:t], robust[:t], drop=drop)]


def test_a_collapse_is_a_fall_that_stays_or_that_no_epoch_follows():
    one_step, robust = zip(*FALLING, strict=True)
    found = [collapsed(one_step[:t], robust[:t], drop=0.2, last=False) for t in range(8)]
    assert found == [False] * 6 + [True] * 2
    assert collapsed(one_step[:5], robust[:5], drop=0.2, last=True)
    assert not collapsed(one_step[:4], robust[:4], drop=0.2, last=True)
    # It came back in between.
    back = [0.5, 0.1, 0.5, 0.1, 0.1]
    assert [collapsed([0.5] * t, back[:t], drop=0.2, last=False) for t in range(1, 6)] == [False] * 4 + [True]


def test_a_fall_is_one_under_pgd_alone_by_hand():
    one_step, robust = zip(*FALLING, strict=True)
    # 0.45 - 0.3 = 0.15 in the fourth epoch, 0.4 in the fifth.
    assert ends(one_step, robust) == [5, 6, 7]
    assert ends(one_step, robust, drop=0.1) == [4, 5, 6, 7]
    # The fall takes two epochs: from the best, not from the epoch before, it is 0.3.
    assert ends([0.5, 0.5, 0.5], [0.45, 0.3, 0.15]) == [3]
    # All accuracies fall: the model got worse, it did not overfit to one step. Half as much is the bound.
    assert ends([0.6, 0.3], [0.5, 0.2]) == []
    assert ends([0.6, 0.45], [0.5, 0.2]) == []
    assert ends([0.6, 0.46], [0.5, 0.2]) == [2]
    # It comes back.
    assert ends([0.5, 0.6, 0.5], [0.4, 0.1, 0.4]) == [2]
    # A fall of exactly the bound is within it, whatever the rounding: 0.7 - 0.5 is 0.19999999999999996, 0.9 - 0.7 more.
    assert ends([1.0, 1.0], [0.9, 0.7]) == ends([1.0, 1.0], [0.3, 0.1]) == []
    # What never was robust cannot fall, and nothing precedes the first epoch.
    assert ends([0.9, 1.0], [0.0, 0.0]) == ends([], []) == ends([0.9], [0.0]) == []


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8), st.integers(1, 30), st.data()
)
def test_the_rule_is_its_definition_counted_in_images(counts, drop, data):
    *before, (last_one, last_robust) = counts
    meant = False
    if before:
        one, best = max(before, key=lambda pair: pair[1])
        meant = best - last_robust > drop and 2 * (one - last_one) < best - last_robust
    one_step, robust = zip(*[(a / 50, b / 50) for a, b in counts], strict=True)
    assert fallen(one_step, robust, drop=drop / 50) is meant


def test_the_adversary_is_one_step_from_a_random_start_as_the_paper_has_it(begun):
    run = begun("fast-at")
    given = run.recipe.method.inner.model_dump(exclude_none=True)
    assert given == {"steps": 1, "step_ratio": 1.25, "mode": "eval"}
    eps, rows = run.recipe.threat.eps, torch.arange(30)
    x, y = run.images.float(rows), run.images.labels[rows]
    state = run.noise.get_state()
    loss, metrics = run.method.loss(x, y, rows)
    run.noise.set_state(state)
    # Algorithm 3: uniform delta; one step of the sign; the ball; the box.
    delta = torch.empty_like(x).uniform_(-eps, eps, generator=run.noise)
    start = (x + delta).clamp(0, 1).requires_grad_(True)
    run.model.eval()
    (gradient,) = torch.autograd.grad(F.cross_entropy(run.model(start), y), start)
    run.model.train()
    x_adv = (x + (start.detach() + 1.25 * eps * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    logits = run.model(x_adv)
    assert torch.allclose(loss, F.cross_entropy(logits, y), atol=1e-6)
    assert float(metrics["adversarial_accuracy"]) == float((logits.argmax(1) == y).float().mean())


@pytest.mark.parametrize("held_out", [0, 40])
def test_both_accuracies_are_of_held_out_images_or_of_training_images_and_cost_no_chance(begun, held_out, monkeypatch):
    run = begun("fast-at", **{"data.validation": held_out})
    state, mode = run.noise.get_state(), run.model.training
    seen = []
    monkeypatch.setattr(
        "corral.training.methods.fast_at.accuracies",
        lambda model, images, threat: (seen.append(images), accuracies(model, images, threat))[1],
    )
    numbers = run.method.monitored(run.validation, last=False)
    assert torch.equal(seen[0].pixels, (run.validation if held_out else run.images).pixels)
    assert numbers["pgd_accuracy"] == accuracies(run.model, seen[0], run.recipe.threat)["validation_pgd"]
    assert numbers == {**run.method.monitored(run.validation, last=False)}
    assert torch.equal(run.noise.get_state(), state)
    assert run.model.training is mode
    # Of many images 500, of every class its share.
    monkeypatch.setattr("corral.training.methods.fast_at.WATCHED", 30)
    run.method.monitored(run.validation, last=False)
    assert len(seen[-1]) == 30


def test_without_a_ball_both_accuracies_are_the_clean_one(begun):
    run = begun("fast-at", **{"threat.eps": 0})
    numbers = run.method.monitored(None, last=False)
    clean = accuracies(run.model, run.images, run.recipe.threat)["validation_clean"]
    assert numbers == {"one_step_accuracy": clean, "pgd_accuracy": clean, "collapsed": False}


@pytest.fixture
def falling(monkeypatch):
    """Lets the epochs of FAST-AT measure FALLING in turn, from the first or as many as it has seen."""

    def monitored(self, held_out, *, last):
        self.seen.append(FALLING[len(self.seen)])
        self._judge(last)
        one_step, robust = self.seen[-1]
        return {"one_step_accuracy": one_step, "pgd_accuracy": robust, "collapsed": self.health == "failed"}

    monkeypatch.setattr(FastAdversarialTraining, "monitored", monitored)


def weights(folder):
    return load_file(Run(folder).model_file)


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


SEVEN = {"training.epochs": 7, "data.validation": 50}


@pytest.mark.parametrize("averaging", [{}, {"weight_averaging": 0.9}])
def test_the_weights_before_the_fall_are_saved_and_the_run_says_so(tiny, falling, capsys, averaging):
    three = tiny("fast-at", "three", **SEVEN | averaging | {"training.epochs": 3})
    capsys.readouterr()
    folder = tiny("fast-at", progress=True, **SEVEN, **averaging)
    info = load_model(folder)[2]
    # The warm start and three epochs: in the fourth accuracy had fallen by more than half of `drop` already.
    assert info.epochs == 4
    assert info.ending == Ending(epochs=6, warm_epochs=1, stopped="collapse")
    metrics = read_metrics(Run(folder).metrics_file)
    assert [entry.get("collapsed") for entry in metrics] == [None, *[False] * 5, True]
    assert info.validation == {key: metrics[3][key] for key in ("validation_clean", "validation_pgd")}
    # The whole run's seconds, not those until the weights.
    assert info.train_seconds == metrics[-1]["train_seconds"]
    # Those of a run that made no more epochs.
    assert_same(weights(folder), weights(three))
    assert not Run(folder).sound_file.exists()
    said = capsys.readouterr().err
    assert "one-step 90.0%, PGD 5.0%  catastrophic" not in said
    assert "one-step 99.0%, PGD 0.0%  catastrophic overfitting" in said
    assert "stopped by catastrophic overfitting in epoch 6: the weights before it are saved" in said


def test_warned_training_goes_on_and_every_later_line_says_so(tiny, falling):
    folder = tiny("fast-at", **SEVEN, collapse="warn")
    info = load_model(folder)[2]
    assert (info.epochs, info.ending) == (8, None)
    assert [entry.get("collapsed") for entry in read_metrics(Run(folder).metrics_file)][1:] == [False] * 5 + [True] * 2


def test_the_best_on_held_out_images_is_saved_where_it_is_selected(tiny, falling):
    folder = tiny("fast-at", **SEVEN, select="best")
    info = load_model(folder)[2]
    metrics = read_metrics(Run(folder).metrics_file)
    best = max(metrics[1:], key=lambda entry: entry["validation_pgd"])
    assert info.epochs == best["epoch"]
    assert info.ending.stopped == "collapse"


def test_a_run_that_does_not_collapse_makes_its_epochs(tiny, falling):
    info = load_model(tiny("fast-at", **SEVEN | {"training.epochs": 4}))[2]
    # The last epoch's accuracy had fallen, not far enough: its weights are those that training ended with.
    assert (info.epochs, info.ending) == (5, Ending(epochs=4, warm_epochs=1))


def test_a_fall_in_the_last_epoch_is_not_saved_either(tiny, falling):
    info = load_model(tiny("fast-at", **SEVEN | {"training.epochs": 5}))[2]
    assert (info.epochs, info.ending) == (4, Ending(epochs=5, warm_epochs=1, stopped="collapse"))


def test_a_fall_in_an_epoch_after_which_patience_ends_training_is_not_saved_either(tiny, falling, monkeypatch):
    # The best accuracy under PGD on held-out images is that of the third epoch, two before the fall.
    given = SEVEN | {"patience": 2}
    monkeypatch.setattr("corral.training.loop.since_best", lambda robust, *, settled: max(len(robust) - 3, 0))
    monkeypatch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tiny("fast-at", **given)
    monkeypatch.undo()
    # A process that goes on from the checkpoint knows that no epoch followed.
    info = load_model(tiny("fast-at", resume=True, **given))[2]
    assert (info.epochs, info.ending) == (4, Ending(epochs=5, warm_epochs=1, stopped="collapse"))


def test_a_run_killed_in_every_epoch_stops_with_the_bits_of_one_that_was_not(tiny, falling, monkeypatch):
    whole = tiny("fast-at", "whole", **SEVEN)
    original = Training._save

    def killed(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    for number in range(7):
        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save", killed)
            with pytest.raises(KeyboardInterrupt):
                tiny("fast-at", "cut", resume=number > 0, **SEVEN)
    # Then between its model and the end of the process.
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("fast-at", "cut", resume=True, **SEVEN)
    cut = tiny("fast-at", "cut", resume=True, **SEVEN)
    assert load_model(cut)[2].ending == load_model(whole)[2].ending
    assert_same(weights(whole), weights(cut))


def test_a_checkpoint_without_what_was_seen_or_a_lost_model_is_one_line(tiny, falling, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("fast-at", **SEVEN)
    run = Run(tmp_path / "run")
    saved, metadata = read_checkpoint(run.state_file, kind="training")
    for wrong, words in (
        (saved["method.seen"][:, :1], r"seen must be \(epochs, 2\) accuracies, found \(6, 1\)"),
        (saved["method.seen"] * 9, r"seen must be \(epochs, 2\) accuracies"),
    ):
        write_checkpoint(run.state_file, saved | {"method.seen": wrong}, metadata)
        with pytest.raises(CorralError, match=words):
            tiny("fast-at", resume=True, **SEVEN)
    write_checkpoint(run.state_file, saved, metadata)
    run.sound_file.unlink()
    with pytest.raises(CorralError, match=r"sound\.safetensors: no such checkpoint"):
        tiny("fast-at", resume=True, **SEVEN)


def test_another_number_of_steps_is_refused_in_one_line():
    for data in ("digits", "cifar10"):
        assert load_recipe("fast-at", data=data).method.inner.step_ratio == 1.25
    with pytest.raises(UsageError, match=r"method\.inner\.steps: must be 1, found 3: method 'at' takes any") as caught:
        load_recipe("fast-at", overrides={"inner.steps": 3})
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"method\.drop"):
        load_recipe("fast-at", overrides={"drop": 0.0})


def memorable(eps):
    """240 images of six classes, of which a linear model can classify 60% right in the whole ball of eps.

    A class's pattern is a Walsh function or its negative: its amplitude is 1.2 eps, or eps / 2 in the rest, which can
    only be learnt by heart, or by what one step from a random start tells of the label.
    """
    generator = torch.Generator().manual_seed(0)
    walsh = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]).reshape(3, 1, 2, 2)
    patterns = F.interpolate(torch.cat([walsh, -walsh]), size=8, mode="nearest")
    labels = torch.arange(240) % 6
    strong = torch.rand(240, 1, 1, 1, generator=generator) < 0.6
    noise = 0.02 * torch.randn(240, 1, 8, 8, generator=generator)
    return 0.5 + torch.where(strong, 1.2, 0.5) * eps * patterns[labels] + noise, labels


@pytest.mark.slow
def test_a_real_collapse_is_found_and_the_model_before_it_is_saved(tmp_path):
    eps, drop = 0.2, 0.15
    data = memorable(eps)
    settings = {
        "threat.eps": eps, "inner.step_ratio": 2.0, "drop": drop, "learning_rate": 1e-2, "batch_size": 60,
        "model.backbone": "convnet", "model.width": 16, "model.features": 32, "epochs": 18, "loggers": [],
        "progress": False,
    }  # fmt: skip

    def trained(seed, mode):
        return train("fast-at", data=data, out=tmp_path / f"{seed}-{mode}", seed=seed, collapse=mode, **settings)

    # Not every seed's model collapses; which ones do may depend on the processor's rounding.
    found = (trained(seed, "stop") for seed in range(6))
    run = next(run for run in found if run.info.ending.stopped == "collapse")
    kept, last = run.metrics[run.info.epochs - 1], run.metrics[-1]
    assert kept["epoch"] < last["epoch"] == run.info.ending.epochs
    best = max(entry["pgd_accuracy"] for entry in run.metrics)
    assert best - last["pgd_accuracy"] > drop
    assert best - kept["pgd_accuracy"] <= drop / 2
    assert last["one_step_accuracy"] > kept["one_step_accuracy"]
    # The saved weights have the accuracy of that epoch, not of the last.
    saved = accuracies(run.model, load(data).train, run.recipe.threat)
    assert saved["validation_pgd"] == kept["pgd_accuracy"]
    # Whether it stops changes no number of training; a model that went on is another.
    warned = trained(run.info.seed, "warn")
    assert [entry["loss"] for entry in warned.metrics[: len(run.metrics)]] == [entry["loss"] for entry in run.metrics]
    assert warned.info.epochs == 18
    assert warned.metrics[-1]["one_step_accuracy"] - warned.metrics[-1]["pgd_accuracy"] > 0.3
    assert (
        accuracies(warned.model, load(data).train, run.recipe.threat)["validation_pgd"]
        == (warned.metrics[-1]["pgd_accuracy"])
    )
