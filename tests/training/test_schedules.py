"""Learning rates: closed forms, torch's schedulers as a twin, and what a run logs."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from corral.errors import UsageError
from corral.training import Run, load_recipe, read_metrics, shipped_recipes
from corral.training.optimisers import schedule
from corral.training.recipes.recipe import TrainingConfig


@pytest.mark.parametrize("epochs", [0.0, 0.25, 1.0, 3.5, 9.99])
def test_learning_rates_follow_their_closed_forms(epochs):
    config = TrainingConfig(epochs=10, schedule="cosine")
    assert schedule(config, epochs) == pytest.approx(math.cos(math.pi * epochs / 20) ** 2)
    assert schedule(TrainingConfig(epochs=10), epochs) == 1.0
    steps = TrainingConfig(epochs=10, schedule="steps", milestones=[1, 3])
    assert schedule(steps, epochs) == pytest.approx({0: 1, 1: 0.1, 3: 0.01, 9: 0.01}[int(epochs)])


@pytest.mark.parametrize(("epochs", "factor"), [(0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (12.0, 0.5), (20.0, 0.0)])
def test_the_rate_rises_in_a_line_and_falls_by_a_cosine(epochs, factor):
    config = TrainingConfig(epochs=20, schedule="cosine", warm_up=4)
    assert schedule(config, epochs) == pytest.approx(factor, abs=1e-12)


def recipes_schedules():
    """The distinct settings of the shipped recipes' learning rates over the data sets."""
    found = {}
    for name in shipped_recipes():
        for data in ("digits", "mnist", "cifar10", "cifar100", "svhn"):
            try:
                training = load_recipe(name, data=data).training
            except UsageError:  # not every recipe has settings for every set
                continue
            found[training.schedule, training.epochs, training.warm_up, tuple(training.milestones)] = training
    return list(found.values())


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step:UserWarning")
def test_the_rates_of_every_shipped_recipe_are_those_of_torchs_schedulers():
    """To rounding; the first steps of a warm-up, which torch cannot begin at zero, to its 1e-9."""
    steps, shipped = 7, recipes_schedules()
    assert len(shipped) > 5
    for training in shipped:
        rising = training.warm_up or 0
        if training.schedule == "one-cycle" and not rising:
            rising = 0.4 * training.epochs
            assert rising * steps == pytest.approx(round(rising * steps))
        turn = round(rising * steps)
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
        parts = [LinearLR(optimiser, 1e-9, 1.0, turn)] if rising else []
        if training.schedule == "cosine":
            parts.append(CosineAnnealingLR(optimiser, (training.epochs - rising) * steps))
        elif training.schedule == "one-cycle":
            parts.append(LinearLR(optimiser, 1.0, 0.0, training.epochs * steps - turn))
        else:
            parts.append(MultiStepLR(optimiser, [(milestone - rising) * steps for milestone in training.milestones]))
        twin = SequentialLR(optimiser, parts, [turn] if rising else [])
        for step in range(min(training.epochs, 200) * steps):
            rate = training.learning_rate * schedule(training, step / steps)
            assert optimiser.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9, abs=2e-9 * training.learning_rate)
            twin.step()


def test_the_logged_learning_rates_are_those_of_warm_milestones_and_schedule(tiny):
    folder = tiny(
        "nominal",
        epochs=3,
        schedule="steps",
        **{"training.milestones": [2], "warm_start.epochs": 2, "warm_start.milestones": [1]},
    )
    recipe = load_recipe(folder).training
    warm, main = recipe.warm_start.learning_rate, recipe.learning_rate
    rates = [entry["learning_rate"] for entry in read_metrics(Run(folder).metrics_file)]
    assert rates == pytest.approx([warm, warm / 10, main, main, main / 10])
