"""The estimator: any recipe behind fit and predict."""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from corral.certify import head_radius, lipschitz_upper
from corral.data import DataSet, Images
from corral.devices import choose_device
from corral.errors import UsageError
from corral.models import Classifier, ModelSpec, build_classifier
from corral.models.backbones import BackboneLike, named_backbone
from corral.precision import full_float32
from corral.sklearn.pixels import as_images, check_shape
from corral.training import Recipe, Run, Training, load_model, load_recipe
from corral.training.methods import method_class
from corral.training.recipes.recipe import MOST_SEED, ModelConfig

# What rows of numbers are trained with in the place of the recipe's values, which are those of images. The backbone is
# left to a recipe that has another than the default.
ROWS: Mapping[str, Any] = {
    "model.backbone": "mlp",
    "model.hidden": (64, 64),
    "model.features": 32,
    "model.rectify": False,
    "data.validation": 0,
    "data.crop": 0,
    "data.flip": False,
    "threat.eps": 0.05,
    "training.epochs": 30,
    "training.batch_size": 64,
    "training.learning_rate": 5e-3,
}
# Parameters that are keys of the recipe.
KEYS = {
    "clusters": "method.clusters",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "norm": "threat.norm",
    "eps": "threat.eps",
    "backbone": "model.backbone",
}
PREDICTED_AT_ONCE = 500


class CorralClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A robust classifier of rows of numbers or of images, trained by a recipe of corral.

    **Rows** (n, features) become images of one line, (1, 1, features), with pixels in [0, 1]: each feature is scaled by
    its smallest and largest value in training, and what is beyond these later is clipped to them. `eps` and certified
    radii are in this unit, shares of a feature's range. **Images** are (n, H, W), (n, H, W, C) or (n, C, H, W), or rows
    with an `image_shape`; they are uint8 or floats in [0, 1] and are not scaled, and `eps` is in pixel units as in all
    of corral.

    None leaves a value to the recipe (`corral recipes NAME`, its values for digits); of rows `ROWS` count before it.

    Args:
        recipe: a recipe's or a method's name, a TOML file, or a Recipe: "corral", "at", "trades", "certified" ...
        clusters: centroids a class; of recipes with clusters.
        epochs: passes over the training data.
        batch_size: rows a step.
        learning_rate: of the weights.
        norm: of the threat, "Linf" or "L2".
        eps: radius of the threat, a number or a text such as "8/255".
        backbone: a name, a target, a module or what makes one, as `corral.train` takes it; `overrides` have its
            options. Of rows "mlp", unless the recipe has its own.
        overrides: any other keys of the recipe, such as {"method.temperature": 0.5}; they count before `ROWS`, and
            parameters before them.
        image_shape: (C, H, W) of images that are given as rows, or whose layout is not evident.
        random_state: an int for equal results, an instance of RandomState, or None for others each time.
        device: "cpu", "cuda" ...; None takes a GPU if there is one.
        verbose: show progress on stderr.

    Attributes:
        classes_: (C,) the labels, sorted.
        n_features_in_: values of one row or image.
        feature_names_in_: names of the columns, where `X` had some.
        image_shape_: (C, H, W) of what the model sees.
        scaler_: the MinMaxScaler of each feature's range in training, of rows.
        recipe_: the resolved recipe.
        spec_: what `model_` is built from.
        model_: the `Classifier`, which attacks, certificates and `export` take; `images` makes its input.
    """

    image_shape_: tuple[int, int, int]

    def __init__(
        self,
        recipe: str | Path | Recipe = "corral",
        *,
        clusters: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        norm: Literal["Linf", "L2"] | None = None,
        eps: float | str | None = None,
        backbone: BackboneLike | None = None,
        overrides: Mapping[str, Any] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str | None = "cpu",
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.clusters = clusters
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.norm = norm
        self.eps = eps
        self.backbone = backbone
        self.overrides = overrides
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on (n, features) rows or images and their (n,) labels, of any type.

        Args:
            X: (n, features) rows, or images.
            y: (n,) labels, of any type.

        Raises:
            ValueError: arrays of a wrong shape or with NaN, or fewer than two classes.
            UsageError: an unknown recipe, key or value, or what the recipe refuses of such data.
            CorralError: training failed; the message says why.
        """
        self._check_parameters()
        self.__dict__.pop("model_", None)  # what fails is not fitted, whatever it was before
        pixels = self._pixels(X, fit=True)
        labels = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
        check_classification_targets(labels)
        if len(labels) != len(pixels):
            raise ValueError(f"X has {len(pixels)} rows, but y has {len(labels)} labels: give one label for each row")
        self.classes_, encoded = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, found one class: {self.classes_[0]!r}")
        self.recipe_ = self._resolved()
        images = Images(pixels, torch.from_numpy(encoded.astype(np.int64)))
        # Nothing is measured in training: what stands for the test part is not read.
        data = DataSet("arrays", tuple(map(str, self.classes_)), images, images, note="arrays")
        device = choose_device(self.device)
        with tempfile.TemporaryDirectory(prefix="corral-") as folder:
            run = Training(self.recipe_, Run(Path(folder) / "run"), device, data=data, progress=self.verbose)
            run.begin(resume=False)
            run.execute()
            self.model_, self.spec_, _ = load_model(run.folder.path, device=device)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n,) labels of rows or images.

        Args:
            X: (n, features) rows, or images, as `fit` took them.
        """
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self._outputs(X, self.model_).argmax(1).numpy()]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n, C) probabilities, columns as in `classes_`: the softmax of the logits, of clusters Eq. 4 of ClusTR.

        Args:
            X: (n, features) rows, or images, as `fit` took them.
        """
        check_is_fitted(self)
        found: NDArray[np.float64] = self._outputs(X, self.model_).double().softmax(1).numpy()
        return found

    def certified_radius(self, X: ArrayLike) -> NDArray[np.float64]:
        """(n,) l2 radii, in the unit of `eps`, within which the predicted label of each row cannot change.

        The head's radius over a guaranteed Lipschitz constant of everything before it, in exact arithmetic on the
        weights as they are. An ordinary network's radii are sound and tiny; recipe "certified" trains for large ones.

        Args:
            X: (n, features) rows, or images, as `fit` took them.

        Raises:
            UsageError: a head, a rule or a layer without a certificate.
            ValueError: values that have no radius, such as weights that are not finite.
        """
        check_is_fitted(self)
        features = self._outputs(X, self.model_.features).to(_device(self.model_))
        # A product past float64 still is a bound, of no use.
        lipschitz = min(lipschitz_upper(self.model_, self.image_shape_).value, sys.float_info.max)
        radii: NDArray[np.float64] = head_radius(self.model_.head, features, lipschitz=lipschitz).numpy(force=True)
        return radii

    def images(self, X: ArrayLike) -> Tensor:
        """(n, C, H, W) float32 images in [0, 1], what `model_` takes, for attacks: of rows scaled and clipped.

        Args:
            X: (n, features) rows, or images, as `fit` took them.
        """
        check_is_fitted(self)
        pixels = self._pixels(X, fit=False)
        return Images(pixels).float()

    def _check_parameters(self) -> None:
        """Refuse what the recipe does not check."""
        if not isinstance(self.overrides, Mapping | None):
            raise ValueError(f"overrides must be a mapping of recipe keys to values, found {self.overrides!r}")
        check_shape(self.image_shape)

    def _resolved(self) -> Recipe:
        """The recipe with the parameters in it."""
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(MOST_SEED + 1, dtype=np.int64)
        named = {key: getattr(self, name) for name, key in KEYS.items() if getattr(self, name) is not None}
        if self.backbone is not None:
            named["model.backbone"] = named_backbone(self.backbone)
        named["training.seed"] = int(seed)
        given = dict(self.overrides or {})
        recipe = load_recipe(self.recipe, overrides=given | named)
        if hasattr(self, "scaler_"):
            chosen = any(key.rpartition(".")[2] == "backbone" for key in given | named)
            keeps = chosen or recipe.model.backbone != ModelConfig.model_fields["backbone"].default
            given = {key: value for key, value in ROWS.items() if not (keeps and key.startswith("model."))} | given
        # Keys may be short: those that count come last.
        ordered = {key: value for key, value in given.items() if key not in named} | named
        recipe = load_recipe(self.recipe, overrides=ordered)
        if method_class(recipe.method).trains == "encoder":
            raise UsageError(f"recipe {recipe.name!r} trains an encoder, which predicts nothing: choose another")
        return recipe

    def _pixels(self, X: Any, *, fit: bool) -> Tensor:
        """(n, C, H, W) pixels of rows or images; `fit` finds their shape and range."""
        dimensions = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if dimensions in (3, 4) or self.image_shape is not None:
            pixels = as_images(X, self.image_shape if fit else self.image_shape_, least=2 if fit else 1)
            if fit:
                for name in ("scaler_", "feature_names_in_"):
                    self.__dict__.pop(name, None)  # of an earlier fit to rows
                channels, height, width = pixels.shape[1:]
                self.image_shape_, self.n_features_in_ = (channels, height, width), channels * height * width
            return pixels
        least = {"ensure_min_samples": 2} if fit else {}
        rows = validate_data(self, X, reset=fit, dtype=np.float64, **least)
        if fit:
            self.scaler_ = MinMaxScaler(clip=True).fit(rows)
            self.image_shape_ = (1, 1, rows.shape[1])
        elif not hasattr(self, "scaler_"):
            raise ValueError(f"X has {rows.shape} values, but the classifier was fitted to images {self.image_shape_}")
        return torch.from_numpy(self.scaler_.transform(rows).astype(np.float32)).reshape(-1, *self.image_shape_)

    def _outputs(self, X: ArrayLike, function: Callable[[Tensor], Tensor]) -> Tensor:
        """(n, ...) outputs on the CPU, batch by batch."""
        images, device = self.images(X), _device(self.model_)
        with torch.no_grad(), full_float32():
            parts = [function(part.to(device)) for part in torch.split(images, PREDICTED_AT_ONCE)]
        return torch.cat(parts).cpu()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "model_" in state:
            tensors = state.pop("model_").state_dict()
            state["weights_"] = {name: tensor.numpy(force=True) for name, tensor in tensors.items()}
            for name in ("spec_", "recipe_"):
                state[name] = state[name].model_dump(mode="json")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weights = state.pop("weights_", None)
        super().__setstate__(state)
        if weights is not None:
            self.recipe_ = Recipe.model_validate(self.recipe_)
            self.spec_ = ModelSpec.model_validate(self.spec_)
            self.model_ = build_classifier(self.spec_)
            self.model_.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
            self.model_.eval()


def _device(model: Classifier) -> torch.device:
    return model.normalisation.mean.device
