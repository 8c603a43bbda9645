"""A run without weight averaging out of the same one with it: averaging changes no step, so one training is both."""

from pathlib import Path

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.files import write_atomically
from corral.training import Run
from corral.training.methods import method_class
from corral.training.recipes.files import with_checksum
from corral.training.recipes.recipe import Recipe


def begin_unaveraged(recipe: Recipe, path: Path, averaged: Path) -> bool:
    """Write a run's last training state, from which `train(resume="auto")` makes its model without a step.

    `tests/training/test_ingredients.py` holds that the steps are equal to the bit, `tests/arena/test_unaveraged.py`
    that the models are. The seconds are those of the run with averaging.

    Args:
        recipe: of the run, without weight averaging.
        path: its folder, which must not be there.
        averaged: the folder of a run whose recipe is the same but for weight averaging.

    Returns:
        Whether it was written: not where the other run is not finished or was stopped early, or something in training
        depends on the average.
    """
    other, own = Run(averaged), Run(path)
    if path.exists() or not other.model_file.is_file() or not other.state_file.is_file() or depends(recipe):
        return False
    ending = other.info.ending
    if ending is not None and ending.stopped is not None:  # the weights that were saved are not the last
        return False
    training = other.recipe.training.model_copy(update={"weight_averaging": None})
    if other.recipe.model_copy(update={"training": training}).identity() != recipe.identity():
        return False
    tensors, metadata = read_checkpoint(other.state_file, kind="training")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("average.")}
    own.state_file.parent.mkdir(parents=True)
    write_atomically(own.metrics_file, other.metrics_file.read_bytes())
    write_checkpoint(own.state_file, kept, metadata)
    write_atomically(own.recipe_file, with_checksum(recipe.to_toml()).encode())
    return True


def depends(recipe: Recipe) -> bool:
    """Whether a training step, or the end of training, depends on averaged weights."""
    training = recipe.training
    follows = method_class(recipe.method).follows_average or training.class_targets > 0
    return bool(follows or recipe.data.validation or training.converged is not None)
