"""Training: recipes, the loop, runs."""

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.training.begin import train
from corral.training.features import extract_features
from corral.training.loop import Training
from corral.training.recipes.base import InnerAttack, parse_eps
from corral.training.recipes.files import chosen_sets, load_recipe
from corral.training.recipes.layers import shipped_recipes
from corral.training.recipes.recipe import Recipe
from corral.training.run import Run, RunInfo, load_model, read_metrics

__all__ = [
    "FeaturesObjective",
    "InnerAttack",
    "Recipe",
    "Run",
    "RunInfo",
    "Training",
    "TrainingLoss",
    "chosen_sets",
    "extract_features",
    "load_model",
    "load_recipe",
    "parse_eps",
    "read_metrics",
    "shipped_recipes",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "RunFolder":
        raise AttributeError("corral.training.RunFolder is Run now: RunFolder(path).model is Run(path).model_file")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
