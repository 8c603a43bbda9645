"""Recipes: strict, typed, frozen descriptions of a run."""

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from corral.errors import UsageError
from corral.models.backbones import BACKBONES, missing_words, read_backbone
from corral.models.backbones.given import PREFIX as GIVEN
from corral.models.spec import fill_head
from corral.models.statistics import parse_normalise
from corral.registry import is_target, lasting
from corral.strict import MOST_WHOLE
from corral.training.methods.base import METHODS, MethodOptions, method_class
from corral.training.recipes.base import Config, Count, NotNegative, Positive, ThreatConfig

# What a head's options are checked with before the data set is known; it is checked again with its classes.
FEWEST_CLASSES = 2
# A share of the epochs and a factor of the learning rate.
Point = Annotated[list[NotNegative], Field(min_length=2, max_length=2)]
# Generators take more, but the noise's seed is offset from this one.
MOST_SEED = MOST_WHOLE


class DataConfig(Config):
    """The images: which set, how many of its training images, what is held out, how they are augmented.

    `crop` is the border from which images are cropped at random. `random_resized_crop` takes a random part of at least
    this share of each image's area and makes it the image's size; of pictures, a part of the picture before it is made
    one size (Szegedy et al. 2015; 0.08 for ImageNet, 0 takes none). `cutout` blackens a square of so many pixels at a
    random place of each image (DeVries and Taylor 2017). `cutmix` puts a random box of another image of the batch into
    each, whose label counts by the box's share of the pixels (Yun et al. 2019).
    `unlabeled` takes the set's images without labels, for methods without labels: true in the place of its training
    images, "also" behind those (STL-10's 5,000 + 100,000 of the papers). What is held out is of the training images all
    the same.
    """

    name: str = "digits"
    train: Count | None = None
    validation: Annotated[int, Field(ge=0)] = 0
    crop: Annotated[int, Field(ge=0, le=1024)] = 0
    random_resized_crop: Annotated[float, Field(ge=0, le=1)] = 0.0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0, le=1024)] = 0
    cutmix: bool = False
    unlabeled: bool | Literal["also"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        if self.crop and self.random_resized_crop:
            raise ValueError("crop and random_resized_crop both cut images: leave one of them 0 (--set data.crop=0)")
        return self


def _normalisation(text: str) -> str:
    """Refuse what is no normalisation; ValueError, which pydantic passes on with its place in the recipe."""
    if text != "none":
        try:
            parse_normalise(text)
        except UsageError as error:
            raise ValueError(str(error).replace("--normalise takes", "takes none,")) from None
    return text


class ModelConfig(Config):
    """The backbone with those of its options that are not the defaults, and the head where the method leaves it free.

    The options are the backbone's own (`corral.models.backbones`), beside `backbone`. `head` is a name or a table of a
    name and options; without it the method's head, a linear one for most. `normalise` is by which means and standard
    deviations of the channels the backbone's inputs are normalised: without it those of the training images; those that
    a pretrained backbone was trained with ("imagenet", "half", "cifar10" ... or "M,M,M/S,S,S"), or none ("none").
    """

    model_config = ConfigDict(extra="allow")

    backbone: str = "convnet"
    head: dict[str, Any] | None = None
    normalise: Annotated[str, AfterValidator(_normalisation)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name, head = data.get("backbone", "convnet"), data.get("head")
        if not isinstance(name, str):
            return data
        given = {key: value for key, value in data.items() if key not in cls.model_fields and value is not None}
        try:
            read = read_backbone(name, given)
            if isinstance(head, str):
                head = {"name": head}
            if isinstance(head, dict):
                name_of_head = head.get("name")
                if not isinstance(name_of_head, str):
                    raise ValueError(f"head needs a name, found {head!r}")
                fill_head(head, FEWEST_CLASSES)
                head = {**head, "name": _lasting(name_of_head)}
        except UsageError as error:  # pydantic passes ValueErrors on with their place in the recipe
            lost = name.startswith(GIVEN) and name not in BACKBONES
            raise ValueError(f"backbone {name!r}: {missing_words(name)}" if lost else str(error)) from None
        # In the backbone's order, so that a recipe is written in one way: names of run folders depend on it.
        chosen = {
            key: list(value) if isinstance(value, tuple) else value for key, value in read.items() if key in given
        }
        beside = {
            key: value for key, value in (("head", head), ("normalise", data.get("normalise"))) if value is not None
        }
        return {"backbone": _lasting(name), **beside, **chosen}

    def options(self) -> dict[str, Any]:
        """The backbone's options that were chosen."""
        return dict(self.model_extra or {})


def _lasting(name: str) -> str:
    """A name as a run folder should have it: a file by its whole path."""
    return lasting(name) if is_target(name) else name


class WarmStart(Config):
    """Nominal epochs with a linear head before the method begins (ClusTR Sec. 4.1).

    `stop_accuracy` ends the warm start early at that *validation* accuracy; 0 never does.
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    learning_rate: Positive = 1e-3
    milestones: list[Count] = Field(default_factory=list)
    stop_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0


class Convergence(Config):
    """Training ends at convergence: after the first epoch at which the best clean validation accuracy of the last
    `epochs` epochs is no more than `tolerance` above the best of all epochs before them.

    Epochs of the warm start do not count, and with schedule "steps" or a `warm_up` the last `epochs` epochs all lie
    after the last change of the learning rate. `training.epochs` stays the most; see `training.convergence.converged`.
    """

    tolerance: Annotated[float, Field(ge=0, le=1)]
    epochs: Count


class WeightAveraging(Config):
    """The mean of the network's numbers over training, which is what is measured and saved.

    Either an exponential one of `decay` (a number alone means it), or the equal one of the ends of all epochs of the
    method from `swa_from` on; see `ingredients.averaging`.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    swa_from: Count | None = None

    @model_validator(mode="after")
    def _one(self) -> "WeightAveraging":
        if (self.decay is None) == (self.swa_from is None):
            raise ValueError("weight_averaging needs either a decay, such as 0.999, or swa_from, an epoch")
        return self


class WeightPerturbation(Config):
    """Adversarial weight perturbation (AWP, Wu et al. 2020): each step's loss is that of weights moved to raise it.

    Each weight moves by `gamma` of its length, after the first `warm_up` epochs of the method. A step costs one more
    forward and backward pass; the adversarial images are the same in both.
    """

    gamma: Positive = 0.01
    warm_up: Annotated[int, Field(ge=0)] = 0


def _decay(value: object) -> object:
    """A weight averaging of a number alone."""
    return {"decay": value} if isinstance(value, float | int) and not isinstance(value, bool) else value


class TrainingConfig(Config):
    """Optimisation: the same for every method.

    `start` names trained weights that the backbone begins from: a run, its model.safetensors, or any safetensors file.
    Over the first `warm_up` epochs the learning rate rises linearly from 0, then the schedule begins: "cosine" and
    "one-cycle" fall to 0 at the end, the latter linearly from its peak at two fifths of the epochs if `warm_up` does
    not say where (Wong et al. 2020); "steps" divides by ten at each of the `milestones`; "piecewise" goes in straight
    lines through `points`, pairs of a share of the epochs and a factor of the rate, and knows no warm-up. Gradients
    longer than `clip_gradient` are scaled to it. eps rises linearly from 0 over `eps_warm_up` epochs of the method.
    `label_smoothing` a leaves a label 1 - a + a / C, `class_targets` w takes w of it for the mean prediction of its
    class on the training images after the last epoch. `perturbation` is AWP. `trust` is LARS's
    coefficient, 0.001 by default: "lars" scales the step of every tensor (You et al. 2017; ACL's code), "lars-clipped"
    bounds a tensor's by the learning rate and leaves biases and BatchNorm's numbers to SGD (solo-learn's SimCLR).
    `converged` ends training before `epochs` epochs when validation accuracy no longer rises; without it all are made.
    Where several processes share a batch, BatchNorm's statistics are those of the whole batch, as of one process; with
    `batch_norm` "local" they are those of each one's part of it, and running ones are averaged after an epoch.
    `patience` ends it when validation accuracy under PGD has had no new best for so many epochs of the method, with
    schedule "steps" or a `warm_up` counted after the last change of the learning rate; `select` "best" saves the best.
    """

    start: str | None = None
    epochs: Count = 10
    batch_size: Annotated[int, Field(ge=2)] = 240
    optimiser: Literal["adam", "sgd", "lars", "lars-clipped"] = "adam"
    learning_rate: Positive = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine", "steps", "one-cycle", "piecewise"] = "constant"
    milestones: list[Count] = Field(default_factory=list)
    points: list[Point] = Field(default_factory=list)
    warm_up: Count | None = None
    trust: Positive | None = None
    clip_gradient: Positive | None = None
    batch_norm: Literal["local"] | None = None
    eps_warm_up: Count | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_targets: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_averaging: Annotated[WeightAveraging | None, BeforeValidator(_decay)] = None
    perturbation: WeightPerturbation | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    select: Literal["last", "best"] = "last"
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    warm_start: WarmStart = WarmStart()
    converged: Convergence | None = None
    patience: Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError("milestones go with schedule 'steps', and 'steps' needs them")
        shares = [share for share, _ in self.points]
        rising = shares == sorted(set(shares)) and (not shares or shares[-1] <= 1)
        if (self.schedule == "piecewise") != bool(shares) or not rising:
            raise ValueError(
                "points, of rising shares of the epochs, go with schedule 'piecewise', and 'piecewise' needs them, "
                "such as [[0, 0], [0.4, 1], [1, 0]]"
            )
        if self.schedule == "piecewise" and self.warm_up is not None:
            raise ValueError("schedule 'piecewise' has no warm_up: let its points begin at a factor of 0")
        if self.eps_warm_up is not None and self.eps_warm_up >= self.epochs:
            raise ValueError(f"eps_warm_up must end before the {self.epochs} epochs do, found {self.eps_warm_up}")
        averaging = self.weight_averaging
        if averaging is not None and (averaging.swa_from or 0) > self.epochs:
            raise ValueError(
                f"weight_averaging.swa_from must be among the {self.epochs} epochs, found {averaging.swa_from}"
            )
        if self.warm_up is not None and self.warm_up >= self.epochs:
            raise ValueError(
                f"warm_up must end before the {self.epochs} epochs do, found {self.warm_up}: lower it, or take it out "
                "(--set training.warm_up=)"
            )
        if self.trust is not None and not self.optimiser.startswith("lars"):
            raise ValueError(
                f"trust is a number of optimisers 'lars' and 'lars-clipped', found with {self.optimiser!r}: "
                "take it out (--set training.trust=)"
            )
        if self.converged is not None and self.converged.epochs >= self.epochs:
            raise ValueError(
                f"converged.epochs must be below the {self.epochs} epochs, found {self.converged.epochs}: raise "
                "training.epochs, or take the criterion out (--set training.converged=)"
            )
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(
                f"patience must be below the {self.epochs} epochs, found {self.patience}: raise training.epochs, or "
                "take it out (--set training.patience=)"
            )
        if self.converged is not None and self.schedule not in ("constant", "steps"):
            falls = "a cosine's" if self.schedule == "cosine" else "this one's"
            raise ValueError(
                f"converged goes with schedule 'constant' or 'steps': {falls} learning rate falls to the end"
            )
        return self


class ReportedConfig(Config):
    """What the source claims for this recipe on this data set, as fractions; a record shows it beside the measured."""

    clean: Annotated[float, Field(ge=0, le=1)]
    robust: Annotated[float, Field(ge=0, le=1)]
    attack: str
    source: str


def _options(value: object) -> object:
    """The options of a `method` table, as the method that it names has them."""
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if not isinstance(name, str):
        raise PydanticCustomError("method_missing", "missing; known: {known}", {"known": ", ".join(METHODS)})
    method = METHODS.find(name, code=False)
    return method.Options.model_validate(value)


def inner_objective(options: MethodOptions) -> str | None:
    """The objective that a recipe chose for the adversary inside training."""
    return getattr(getattr(options, "inner", None), "objective", None)


# Of a recipe: what is said about it, without effect on a run.
WORDS = ("summary", "source", "reported", "preset")


class Recipe(Config):
    """A run, with every default spelled out.

    `preset` names the generic preset that gave what neither the recipe nor the user chose for the data set.
    """

    name: str
    summary: str = ""
    source: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    threat: ThreatConfig = ThreatConfig()
    method: Annotated[SerializeAsAny[MethodOptions], BeforeValidator(_options)]
    training: TrainingConfig = TrainingConfig()
    reported: ReportedConfig | None = None
    preset: Literal["images", "imagenet"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        method, training = method_class(self.method), self.training
        name, labels, validated = f"method '{self.method.name}'", method.needs_labels, self.data.validation > 0
        best, converges, warm = training.select == "best", training.converged is not None, training.warm_start
        patient = training.patience is not None
        held_out = "needs held-out images: set data.validation above 0"
        for wrong, message in (
            (best and not validated, f"training.select 'best' {held_out}"),
            (warm.stop_accuracy > 0 and not validated, f"warm_start.stop_accuracy {held_out}"),
            (converges and not labels, f"{name} has no accuracy that converges: leave training.converged out"),
            (converges and not validated, f"training.converged {held_out}"),
            (patient and not labels, f"{name} has no accuracy under attack: leave training.patience out"),
            (patient and not validated, f"training.patience {held_out}"),
            (self.data.unlabeled and labels, f"{name} needs labels: leave data.unlabeled out"),
            (best and not labels, f"{name} has no accuracy to select by: leave training.select 'last'"),
            (method.trains == "head" and warm.epochs, f"{name} trains a head alone: leave warm_start.epochs 0"),
            (not labels and warm.epochs, f"{name} uses no labels: leave warm_start.epochs 0"),
            (training.label_smoothing and not method.softens, f"{name} smooths no labels: leave label_smoothing out"),
            (training.class_targets and not method.softens, f"{name} has no soft labels: leave class_targets out"),
            (self.data.cutmix and not method.mixes, f"{name} has no loss of two labels: leave data.cutmix out"),
            (
                inner_objective(self.method) and not method.attacks_logits,
                f"{name} has no adversary on logits: leave method.inner.objective out",
            ),
        ):
            if wrong:
                raise ValueError(message)
        method.check(self)
        return self

    def to_toml(self) -> str:
        """The recipe as TOML, all defaults spelled out; reading it gives an equal recipe."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def identity(self) -> str:
        """What decides a run's weights, as TOML: no words about the recipe, and no value that is its default.

        An option that a later version adds, with a default that changes nothing, leaves it as it was.
        """
        decisive = self.model_dump(exclude=set(WORDS), exclude_none=True, exclude_defaults=True)
        decisive["method"] = {"name": self.method.name, **decisive.get("method", {})}
        return tomli_w.dumps(decisive)
