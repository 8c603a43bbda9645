"""An arena of two methods and an ingredient on digits that takes seconds."""

import pytest
from experiments.arena.definition import load_arena

TINY = """
baseline = "at"
searched = 2
finalists = 1
finalist_seeds = 2
seeds = 1

[method.at]
recipe = "at"
candidates = [{}, { rate = 2.0 }]

[method.trades]
recipe = "trades"
candidates = [{}, { set = { "method.consistency_weight" = 3.0 } }]

[ingredient.flips]
title = "mirrored images"
methods = ["at"]
set = { "data.flip" = true }

[task.tiny]
data = "digits"
budget = 2
n = 20
images = 60
inner = { steps = 2, step_ratio = 0.5 }
passes_per_second = 1000
attack_minutes = 0.1
protocol = "quick"

[task.tiny.set]
"data.train" = 60
"model.backbone" = "convnet"
"model.width" = 4
"model.features" = 8
"threat.eps" = 0.05
"training.learning_rate" = 2e-3
"training.batch_size" = 30
"training.schedule" = "cosine"

[task.tiny.screen]
budget = 2
images = 60
n = 20
attacks = ["apgd-ce:steps=3", "apgd-t:steps=3"]
"""


def arena_of(folder, text):
    """The arena of a file with this text."""
    path = folder / "arena.toml"
    path.write_text(text)
    load_arena.cache_clear()
    return load_arena(path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return arena_of(tmp_path_factory.mktemp("tiny"), TINY)
