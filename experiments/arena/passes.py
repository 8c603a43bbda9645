"""What a method costs: images that go forward and backward through the network, counted on a tiny run."""

import csv
import hashlib
import io
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_hook

from corral.errors import UsageError
from corral.files import write_atomically
from corral.training import Recipe, Run, load_recipe
from corral.training.loggers import find_loggers
from corral.training.loop import Training

FILE = Path(__file__).with_name("passes.csv")
COLUMNS = ("recipe", "digest", "forwards", "backwards", "once")
# The tiny run: what a method does to an image does not depend on these.
BATCH, EPOCHS = 60, 2
# Its training images, twice: what another batch costs. Both are more than a method watches after an epoch (500).
SIZES = (9 * BATCH, 10 * BATCH)
TINY: dict[str, Any] = {
    "data.name": "digits",
    "data.train": SIZES[0],
    "data.validation": 0,
    "data.crop": 0,
    "data.flip": False,
    "model.backbone": "convnet",
    "model.width": 4,
    "model.features": 16,
    "training.epochs": EPOCHS,
    "training.batch_size": BATCH,
    "training.precision": "float32",
    "training.seed": 0,
    # Rate and radius are not what a pass is either; so small a step keeps every loss finite.
    "training.optimiser": "sgd",
    "training.learning_rate": 1e-4,
    "training.weight_decay": 0.0,
    "training.schedule": "constant",
    "training.milestones": None,
    "training.warm_up": None,
    "training.eps_warm_up": None,
    "training.points": None,
    "threat.eps": 0.1,
    "threat.norm": "Linf",
}


@dataclass(frozen=True)
class Cost:
    """Passes by training image.

    Attributes:
        forwards: images forward through the backbone in one epoch, by training image.
        backwards: the same, backward.
        once: both together, before the first epoch or in it alone.
    """

    forwards: float
    backwards: float
    once: float = 0.0

    @property
    def epoch(self) -> float:
        """Forward and backward passes of one epoch."""
        return self.forwards + self.backwards

    def passes(self, epochs: int) -> float:
        """Forward and backward passes of a whole training, by training image."""
        return self.once + epochs * self.epoch

    def epochs(self, budget: float) -> int:
        """How many epochs cost no more than a budget in passes by training image: rounded down, never up.

        Raises:
            UsageError: not even one.
        """
        found = int((budget - self.once) / self.epoch + 1e-9)
        if found < 1:
            raise UsageError(f"a budget of {budget:g} passes an image is less than one epoch's {self.epoch:g}")
        return found


def cost_of(recipe: Recipe) -> Cost:
    """The cost of a recipe's method and ingredients: as passes.csv has it, counted anew where it has none."""
    tiny = tiny_recipe(recipe)
    digest = digest_of(tiny)
    known = _known()
    if digest not in known:
        known[digest] = counted(tiny)
    return known[digest]


def tiny_recipe(recipe: Recipe) -> Recipe:
    """A recipe's method and ingredients on a tiny network and few images."""
    training, values = recipe.training, dict(TINY)
    if recipe.model.head is not None:
        values["model.head"] = recipe.model.head
    # What begins late in a training has begun in a tiny one.
    if training.perturbation is not None:
        values["training.perturbation.warm_up"] = 0
    if training.weight_averaging is not None and training.weight_averaging.swa_from is not None:
        values["training.weight_averaging.swa_from"] = 1
    return load_recipe(recipe.model_copy(update={"preset": None}), overrides=values)


def digest_of(tiny: Recipe) -> str:
    """Which cost it is: of what decides the run but for its name."""
    named = tiny.model_copy(update={"name": ""})
    return hashlib.sha256(named.identity().encode()).hexdigest()[:12]


def counted(tiny: Recipe) -> Cost:
    """The cost of a tiny recipe: what it takes more with more training images, so that it is by image.

    What a method does with a fixed number of images after each epoch, such as watching for a collapse, counts as
    validation does: not.
    """
    small, large = (_trained(load_recipe(tiny, overrides={"data.train": size})) for size in SIZES)
    # By epoch, forward and backward.
    (first_f, first_b), (forwards, backwards) = ((large - small) / (SIZES[1] - SIZES[0])).tolist()
    return Cost(forwards, backwards, first_f + first_b - forwards - backwards)


def _trained(tiny: Recipe) -> NDArray[np.int64]:
    """(EPOCHS, 2) images forward and backward in each epoch of a training.

    They are counted by a hook on the backbone and on copies that a method makes of it; backward at its output, once for
    each gradient that arrives there.
    """
    passes = np.zeros(2, dtype=np.int64)
    epochs = [passes.copy()]

    def backward(gradient: torch.Tensor) -> None:
        passes[1] += len(gradient)

    def forward(module: torch.nn.Module, _inputs: object, features: torch.Tensor) -> None:
        if type(module) is not type(training.model.backbone):
            return
        passes[0] += len(features)
        if features.requires_grad:
            features.register_hook(backward)

    def after_epoch(_epoch: int, _numbers: object) -> None:
        epochs.append(passes.copy())

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "tiny")
        training = Training(tiny, run, torch.device("cpu"), progress=False, loggers=find_loggers([after_epoch]))
        hook = register_module_forward_hook(forward)
        try:
            torch.set_num_threads(1)
            training.begin(resume=False)
            training.execute()
        finally:
            torch.set_num_threads(threads)
            hook.remove()
    return np.diff(np.array(epochs), axis=0)


@cache
def _known() -> dict[str, Cost]:
    """Costs by digest: those of the file, and those that this process has counted since."""
    return read(FILE)


def read(path: Path) -> dict[str, Cost]:
    """The costs of a file by digest; none where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            row["digest"]: Cost(float(row["forwards"]), float(row["backwards"]), float(row["once"]))
            for row in csv.DictReader(stream)
        }


def write(recipes: list[Recipe], path: Path = FILE) -> list[tuple[str, Cost]]:
    """Count the cost of every recipe anew and write passes.csv; returns them."""
    found: dict[str, tuple[str, Cost]] = {}
    for recipe in recipes:
        tiny = tiny_recipe(recipe)
        if (digest := digest_of(tiny)) not in found:
            found[digest] = (recipe.name, counted(tiny))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for digest, (name, cost) in sorted(found.items(), key=lambda one: (one[1][0], one[0])):
        writer.writerow([name, digest, f"{cost.forwards:g}", f"{cost.backwards:g}", f"{cost.once:g}"])
    write_atomically(path, text.getvalue().encode())
    _known.cache_clear()
    return list(found.values())
