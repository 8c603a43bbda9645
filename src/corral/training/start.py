"""Before training: checks of the folder and the head, the images, and the first weights."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from corral.attacks.checks import check_inside
from corral.data import (
    AnyData,
    DataSet,
    Images,
    as_float,
    is_own,
    joined,
    load,
    random_subset,
    require_all_classes,
    split_validation,
    stratified_subset,
)
from corral.errors import CorralError, UsageError
from corral.files import AnyPath, is_temporary
from corral.lock import is_lock
from corral.models import BackboneSpec, Classifier, ModelSpec, build_classifier
from corral.models.spec import head_spec
from corral.models.statistics import channel_statistics
from corral.training.methods import Method, method_class
from corral.training.recipes.files import load_recipe
from corral.training.recipes.layers import BY_NAME
from corral.training.recipes.recipe import WORDS, Recipe
from corral.training.run import Run, RunInfo

# Whether a run is continued: "auto" begins it where there is none.
Resume = bool | Literal["auto"]
# Images whose pixels are held as floats at once for their mean: up to so many all, otherwise so many at a time.
AT_ONCE, PART = 2**28, 1_000
# Of pixels that are all the same nearly.
LEAST_DEVIATION = 1e-3


def finished(folder: Run, recipe: Recipe, *, resume: Resume) -> bool:
    """Whether the run in a folder is finished.

    Raises:
        UsageError: the folder holds a run although none is to be resumed, or the other way round, or one of another
            recipe, or something else. A run that was ended before its first checkpoint is none, unless it is resumed.
    """
    path, kept = folder.path, folder.model_file.is_file() or folder.state_file.is_file()
    if not folder.recipe_file.is_file():
        if path.exists() and (not path.is_dir() or any(not _own(found.name) for found in path.iterdir())):
            raise UsageError(f"{path}: exists and is not a run; choose another --out")
        if resume is True:
            raise UsageError(f"{path}: holds no run to resume; leave out --resume to begin one, or give --auto-resume")
        return False
    if not kept and resume is not True:
        return False
    if not resume:
        raise UsageError(f"{path}: holds a run already; continue it with --resume, or choose another --out")
    before, now = (one.model_dump(exclude=set(WORDS)) for one in (load_recipe(path), recipe))
    differing = _first_difference(before, now)
    if differing:
        raise UsageError(f"{path}: the run's recipe differs: {differing}; ask for the same or choose another --out")
    return folder.model_file.is_file()


def _own(name: str) -> bool:
    """Whether a file's name is that of a lock, or of a write that was killed."""
    return is_lock(name) or is_temporary(name)


def data_of(run: AnyPath, info: RunInfo, *, data: AnyData | None, root: str | Path | None) -> DataSet:
    """The data set that a run was trained on, by the fingerprint of its images.

    Args:
        run: what a message calls it.
        info: its facts.
        data: where the data lie now, or the data, as `corral.data.load` takes them; default as the run recorded them.
        root: folder of the data-set files.

    Raises:
        UsageError: the run's data were given as an object, and now none are; or no data.
        CorralError: the data are absent or damaged, or others than the run's.
    """
    if data is None and is_own(info.data):
        raise UsageError(
            f"{run}: trained on {info.data}, data given as an object, fingerprint {info.data_fingerprint}: give the "
            "same again, data=... in Python, or --data file.py:function that returns them"
        )
    try:
        found = load(info.data if data is None else data, root=root, code=data is not None)
    except UsageError:
        raise
    except CorralError as error:
        if data is not None or ":" not in info.data:
            raise
        raise CorralError(f"{error}; where the run's data lie elsewhere now, name them by --data (data=...)") from error
    if found.fingerprint != info.data_fingerprint:
        remedy = "restore the data, name where they lie by --data (data=...), or train again"
        if is_own(found.name):
            remedy = "give all of the run's data, its training part too, or instead of the run its model, corral.load"
        raise CorralError(
            f"{run}: trained on other data: {found.name} has fingerprint {found.fingerprint}, the run's was "
            f"{info.data_fingerprint}; {remedy}"
        )
    return found


def prepare_data(
    recipe: Recipe, *, root: str | Path | None, data: DataSet | None = None
) -> tuple[DataSet, Images, Images | None]:
    """The data set of a recipe, its training images (subset taken) and the held-out validation images.

    Args:
        recipe: its `data` table says which.
        root: folder of the data-set files.
        data: the recipe's data set, where it was loaded already.

    Raises:
        UsageError: images that the recipe's preset is not for, too few of them, a threat past their box, or so small
             that the recipe's crop moves them out of sight.
        CorralError: a class without a training image.
    """
    data = load(recipe.data.name, root=root, code=False) if data is None else data
    images, validation = data.train, None
    if images.labels is not None:
        require_all_classes(images.labels, data.classes, f"{data.name}: train")
    if recipe.data.validation:
        images, validation = split_validation(images, recipe.data.validation, seed=0)
    if recipe.data.unlabeled:
        if data.unlabeled is None:
            raise UsageError(f"{data.name} has no unlabeled images: leave data.unlabeled out")
        images = data.unlabeled if recipe.data.unlabeled is True else joined(images, data.unlabeled)
    if recipe.data.train is not None:
        images = (random_subset if images.labels is None else stratified_subset)(images, recipe.data.train, seed=0)
    if recipe.preset is not None and (images.shape[0] != 3 or min(images.shape[1:]) < BY_NAME[recipe.preset]):
        raise UsageError(
            f"{data.name} has images of {images.shape} (C, H, W), the preset '{recipe.preset}' is of colour images of "
            f"{BY_NAME[recipe.preset]} pixels and more: give --set model.backbone=... --set threat.eps=... and what "
            "else differs"
        )
    try:
        check_inside(recipe.threat.eps, recipe.threat.norm, images.shape, "threat.eps")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if len(images) < 2:
        raise UsageError(f"training needs at least 2 images, found {len(images)}: raise data.train")
    if recipe.data.crop >= min(images.shape[1:]):
        raise UsageError(f"data.crop {recipe.data.crop} moves images of {images.shape[1:]} pixels out of sight")
    return data, images, validation


def make_model(recipe: Recipe, images: Images, *, num_classes: int) -> tuple[ModelSpec, Classifier]:
    """The spec and the first weights of a recipe's classifier, normalised for the images; a linear head by default.

    Raises:
        UsageError: an impossible backbone, or a recipe that needs trained weights and names none.
    """
    if method_class(recipe.method).continues_from is not None and recipe.training.start is None:
        raise UsageError(
            f"method '{recipe.method.name}' begins from trained weights: set training.start to a run or a safetensors "
            "file"
        )
    config = recipe.model
    if config.normalise is None:
        found, spread = moments(images)
        mean, deviation = tuple(found.tolist()), tuple(spread.clamp_min(LEAST_DEVIATION).tolist())
    else:
        mean, deviation = channel_statistics(config.normalise, images.shape[0])
    spec = ModelSpec(
        backbone=BackboneSpec.model_validate({"name": config.backbone, **config.options()}),
        image_shape=images.shape,
        num_classes=num_classes,
        mean=mean,
        std=deviation,
        head=config.head or {"name": "linear"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return spec, build_classifier(spec)


def check_head(recipe: Recipe, spec: ModelSpec, method: Method) -> None:
    """Refuse, before epoch 1, a head that a finished run could not be read with, or another than the one asked for.

    Raises:
        UsageError: a head that no registered class could build again; the method makes another than the recipe's, by
            its name or an option; or the recipe asks a method that fits no head for one that must be fitted.
    """
    name, first = recipe.method.name, method.model.head
    with torch.random.fork_rng(devices=[]):
        head = method.make_head()
    made = head_spec(head, like=spec.head["name"])
    wanted = recipe.model.head
    if wanted is None:
        return
    if head is not first and (spec.head_class.fitted or made != head_spec(first, like=spec.head["name"])):
        raise UsageError(
            f"method '{name}' has its own head, {made['name']!r}: leave model.head {wanted['name']!r} out, or choose "
            "a method that leaves it free, such as 'at'"
        )
    if spec.head_class.fitted:
        raise UsageError(
            f"method '{name}' does not fit a head of kind {wanted['name']!r}: leave model.head out, or choose a method "
            "that does, such as 'corral'"
        )


def moments(images: Images) -> tuple[Tensor, Tensor]:
    """(C,) mean and standard deviation of the pixels in [0, 1]; of more numbers than `AT_ONCE` in parts, in float64."""
    if len(images) * math.prod(images.shape) <= AT_ONCE:
        pixels = images.float()
        return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for _, stored in images.each(torch.split(torch.arange(len(images), device=images.device), PART)):
        part = as_float(stored).double()
        count += part.numel() // part.shape[1]
        total, squares = total + part.sum((0, 2, 3)), squares + part.square().sum((0, 2, 3))
    mean = total / count
    variance = ((squares - count * mean.square()) / (count - 1)).clamp_min(0)
    return mean.float(), variance.sqrt().float()


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            if inner := _first_difference(before, after, f"{prefix}{key}."):
                return inner
        elif before != after:
            return f"{prefix}{key} is {before!r}, asked for {after!r}"
    return ""
