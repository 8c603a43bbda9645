"""The `method` table of a recipe: one class a method, with its options."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from corral.training.recipe_base import Config, Count, InnerAttack, NotNegative, Positive
from corral.training.recipe_encoders import (
    AclConfig,
    AdvclConfig,
    DeaclConfig,
    NcpAclConfig,
    PseudoLabelledConfig,
    RoclConfig,
    SimclrConfig,
)


class NominalConfig(Config):
    """Cross-entropy on clean images, linear head."""

    name: Literal["nominal"]


class AtConfig(Config):
    """PGD adversarial training (Madry et al. 2018), linear head.

    "at-pretrained" is the same from weights trained on other data (Hendrycks et al. 2019): `training.start` names them.
    """

    name: Literal["at", "at-pretrained"]
    inner: InnerAttack = InnerAttack()


class FreeAtConfig(Config):
    """Free adversarial training (Shafahi et al. 2019, Algorithm 1), linear head.

    Every batch is shown `replays` times in a row, so an epoch costs that many nominal epochs: divide the epochs by it.
    One step of the adversary is `step_ratio` × eps.
    """

    name: Literal["free-at"]
    replays: Count = 8
    step_ratio: Positive = 1.0


class TradesConfig(Config):
    """Cross-entropy plus `consistency_weight` × the consistency of p(x) and p(x_adv), linear head.

    "trades" is Zhang et al. 2019, Eq. 5, with KL; "qtrades" (ClusTR, after Eq. 6) is its quick form with cross-entropy
    and one step. The consistency "unlogged_kl" is what ClusTR's released code has in the place of that cross-entropy.
    "aff" is TRADES from the encoder that `training.start` names: adversarial full fine-tuning.
    """

    name: Literal["trades", "qtrades", "aff"]
    consistency: Literal["kl", "cross_entropy", "unlogged_kl"] = "kl"
    consistency_weight: Positive = 6.0
    inner: InnerAttack = InnerAttack(steps=10)


class MagnetConfig(Config):
    """Magnet loss (ClusTR Eq. 3) from the current weights; with a warm start it is ClusTR.

    `numerics` "published" is the released code's epsilon-saturated loss and, where p of Eq. 4 is needed, exponentiated
    scores of the `nearest` nearest clusters used as logits; "log" is the same mathematics in log space. To tell apart
    what each does, "published_log_loss" has the loss alone in log space, "published_log_scores" the scores alone.

    `consistency` compares an image with its adversarial self, times `consistency_weight`: p(x) with p(x_adv) by
    "cross_entropy" (QTRADES, ClusTR Eq. 6), "kl" or "mse"; the features by "features_mse" (what the critique's code has
    where its formula has p); "magnet" is the Magnet loss of x_adv (its ClusTR+ADV). The adversary maximises the same.
    `rule` decides and does not train: in log space p is over all clusters (D-nearest is a rule of inference), of Eq. 4
    or, by the rule "fuzzy", memberships of fuzzy c-means (the critique, Sec. 5.1).
    `cross_entropy_weight` × CE(p(x), y) is the critique's +CE. p takes its `centroids` and variance from the "batch",
    or from the "epoch"'s refit, as the released code does; "learned" ones are parameters that begin as k-means finds
    them, which is what decides then too (the critique's learnable conversion from embeddings to logits, Sec. 4.2).
    """

    name: Literal["magnet", "clustr"]
    clusters: Count = 2
    rule: Literal["soft", "nearest", "fuzzy"] | Count = "soft"
    alpha: float = 12.5
    numerics: Literal["log", "published", "published_log_loss", "published_log_scores"] = "log"
    clusters_per_batch: Annotated[int, Field(ge=2)] = 12
    samples_per_cluster: Annotated[int, Field(ge=2)] = 20
    consistency: Literal["none", "cross_entropy", "kl", "mse", "features_mse", "magnet"] = "none"
    consistency_weight: NotNegative = 0.0
    consistency_reduction: Literal["mean", "sum"] = "mean"
    cross_entropy_weight: NotNegative = 0.0
    centroids: Literal["batch", "epoch", "learned"] = "batch"
    nearest: Count = 10
    inner: InnerAttack = InnerAttack(steps=1, step_ratio=1.25)

    @model_validator(mode="after")
    def _consistent(self) -> "MagnetConfig":
        if (self.consistency == "none") != (self.consistency_weight == 0):
            raise ValueError("consistency_weight goes with consistency: 'none' and 0, or a kind and more than 0")
        if self.consistency == "none" and self.consistency_reduction == "sum":
            raise ValueError("consistency_reduction 'sum' needs a consistency")
        if self.centroids == "epoch" and not self.scores:
            raise ValueError(
                "centroids 'epoch' needs consistency 'cross_entropy', 'kl' or 'mse', or a cross_entropy_weight"
            )
        if self.centroids == "learned" and not (self.log_scores and self.cross_entropy_weight > 0):
            raise ValueError(
                "centroids 'learned' need a cross_entropy_weight, which teaches them labels, and scores in log space"
            )
        return self

    @property
    def log_loss(self) -> bool:
        """Whether Magnet is computed in log space."""
        return self.numerics in ("log", "published_log_loss")

    @property
    def log_scores(self) -> bool:
        """Whether p of Eq. 4 is computed in log space, from all clusters."""
        return self.numerics in ("log", "published_log_scores")

    @property
    def scores(self) -> bool:
        """Whether a term of the loss needs p of Eq. 4."""
        return self.consistency in ("cross_entropy", "kl", "mse") or self.cross_entropy_weight > 0


class CorralConfig(Config):
    """Adversarial clustering: the loss of adversarial features against centroids.

    The rows of docs/method.md: A = magnet loss on centroids "adversarial_batch"; B = magnet on "clean_batch";
    C = cross_entropy on "clean_batch" with the adversary on the "head"; C' = the same with the adversary on the
    "batch" (default); D = cross_entropy on "learned" centroids; E = D with pull 0.1. The adversary "toward" is C'
    whose images go from the nearest centroid of their class toward the nearest of another class, as NCP-ACL's do. The
    rule is that of the loss and of its adversary too: the maximum of "nearest" is continuous, D-nearest's cut is not.
    """

    name: Literal["corral"]
    clusters: Count = 2
    rule: Literal["soft", "nearest", "fuzzy"] = "soft"
    loss: Literal["cross_entropy", "magnet"] = "cross_entropy"
    centroids: Literal["clean_batch", "adversarial_batch", "learned"] = "clean_batch"
    adversary: Literal["batch", "head", "toward"] = "batch"
    alpha: float = 4.0
    pull: NotNegative = 0.0
    temperature: Positive = 1.0
    temperature_learning_rate: NotNegative = 0.0
    batches: Literal["uniform", "neighbourhood"] = "uniform"
    clusters_per_batch: Annotated[int, Field(ge=2)] = 12
    samples_per_cluster: Annotated[int, Field(ge=2)] = 20
    inner: InnerAttack = InnerAttack()

    @model_validator(mode="after")
    def _consistent(self) -> "CorralConfig":
        if self.centroids != "clean_batch" and self.adversary != "head":
            raise ValueError(f"centroids '{self.centroids}' need adversary 'head': there are no clean batch centroids")
        if self.loss == "magnet" and (self.centroids == "learned" or self.temperature_learning_rate > 0):
            raise ValueError("loss 'magnet' has neither learned centroids nor a temperature; use 'cross_entropy'")
        if self.centroids == "learned" and self.temperature_learning_rate > 0:
            raise ValueError("learned centroids learn their variance; temperature_learning_rate must be 0")
        if self.centroids == "learned" and (self.batches == "neighbourhood" or self.temperature != 1):
            raise ValueError("learned centroids go with batches 'uniform' and temperature 1")
        return self


class CertifiedConfig(Config):
    """Cross-entropy of clean images over bounds on the worst scores within `radius_ratio` × eps in l2.

    `temperature` is the radius in pixel units that one unit of a logit stands for, and `annealing` the power of logit
    annealing (Lai et al. 2025; 0: cross-entropy). The centroids begin as k-means finds them and learn at
    `centroids_learning_rate` (0 fixes them). `rule` is that of the radius, so that the bounds are of it too.
    """

    name: Literal["certified"]
    clusters: Count = 1
    rule: Literal["soft", "nearest"] = "soft"
    radius_ratio: NotNegative = 1.0
    temperature: Positive = 0.25
    annealing: NotNegative = 0.0
    centroids_learning_rate: NotNegative = 3e-3


class Centres(Config):
    """Class centres that stay where they are, all of one `length` (10 in MMC; MAT's loss is blind to it).

    "simplex" is max-Mahalanobis (MAT Eq. 3) and needs C - 1 features; "packed" is the best found by a search in fewer.
    """

    placing: Literal["simplex", "packed"] = "simplex"
    length: Positive = 10.0


class MatConfig(Config):
    """Manifold-aware training (MAT Eq. 9): FTC + `so_weight` × SO + `bibo_weight` × BIBO against fixed centres.

    BIBO's images in the ball are those that `inner` finds; without BIBO there is no attack in training. `adversarial`
    takes FTC and SO of images that maximise FTC instead of clean ones.
    """

    name: Literal["mat"]
    centres: Centres = Centres()
    so_weight: NotNegative = 1.0
    bibo_weight: NotNegative = 1.0
    adversarial: bool = False
    inner: InnerAttack = InnerAttack()


class MmcConfig(Config):
    """Max-Mahalanobis centre loss (Pang et al. 2020, Eq. 8), ||f - mu_y||^2 / 2 against fixed centres.

    `adversarial` takes the loss of the images in the ball that maximise it (the paper's AT + MMC).
    """

    name: Literal["mmc"]
    centres: Centres = Centres()
    adversarial: bool = False
    inner: InnerAttack = InnerAttack()


class LinearConfig(Config):
    """A linear head on the frozen features of `training.start`: "slf" on clean images, "alf" on those of `inner`."""

    name: Literal["slf", "alf"]
    inner: InnerAttack = InnerAttack(steps=10)


class FittedConfig(Config):
    """A cluster head on the frozen features of `training.start`: k-means of every class, `clusters` each, no training.

    The name is the head's rule.
    """

    name: Literal["nearest", "soft"]
    clusters: Count = 1


MethodConfig = Annotated[
    NominalConfig
    | AtConfig
    | FreeAtConfig
    | TradesConfig
    | MagnetConfig
    | CorralConfig
    | CertifiedConfig
    | MatConfig
    | MmcConfig
    | SimclrConfig
    | DeaclConfig
    | NcpAclConfig
    | AclConfig
    | RoclConfig
    | AdvclConfig
    | PseudoLabelledConfig
    | LinearConfig
    | FittedConfig,
    Field(discriminator="name"),
]

# Every method's options by the name that a recipe calls it.
METHODS: dict[str, type[Config]] = {
    name: config
    for config in get_args(get_args(MethodConfig)[0])
    for name in get_args(config.model_fields["name"].annotation)
}

# Methods that train an encoder without a head, those that fit a head to frozen features, and those that go on from an
# encoder's features; what `--linear` knows.
SECOND_STAGES = ("deacl", "ncp-acl", "dynacl++", "dynacl-air++")
ENCODERS = ("simclr", "acl", "dynacl", "dynacl-air", "rocl", "advcl", *SECOND_STAGES)
HEADS = ("slf", "alf", "nearest", "soft")
CONTINUING = (*HEADS, *SECOND_STAGES, "aff")
EVALUATIONS = (*HEADS, "aff")
