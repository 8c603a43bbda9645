"""The `method` table of recipes that train an encoder without labels: one class a method, with its options."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from corral.data.views import Augmentation
from corral.training.recipe_base import Config, Count, InnerAttack, NotNegative, Positive

# Two BatchNorms, one of clean and one of adversarial batches, and which of them the saved encoder has; or a single one.
DualNorm = Literal["none", "clean", "adversarial"]


class ViewsConfig(Config):
    """Random views of an image, as `corral.data.views.Augmentation` has them; the defaults are SimCLR's for CIFAR."""

    smallest: Annotated[float, Field(gt=0, le=1)] = 0.08
    jitter: Annotated[float, Field(ge=0, le=2)] = 0.5
    jitter_probability: Annotated[float, Field(ge=0, le=1)] = 0.8
    gray: Annotated[float, Field(ge=0, le=1)] = 0.2
    blur: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5

    def augmentation(self) -> Augmentation:
        """The same for `random_views`."""
        return Augmentation(**self.model_dump())


class ProjectionConfig(Config):
    """The network between features and a contrastive loss; `hidden` is as wide as the features where it is not set."""

    hidden: Count | None = None
    outputs: Count = 128


class SimclrConfig(Config):
    """SimCLR: NT-Xent at a `temperature` on two views, no labels and no adversary. It trains an encoder."""

    name: Literal["simclr"]
    temperature: Positive = 0.5
    views: ViewsConfig = ViewsConfig()
    projection: ProjectionConfig = ProjectionConfig()


class DeaclConfig(Config):
    """DeACL: NCP-ACL's Eq. 3, `robust_weight` on its second term, and Eq. 2's adversary, away from the first encoder.

    `dual_norm` names the branch of dual BatchNorm that evaluates; "none" is a single BatchNorm.
    """

    name: Literal["deacl"]
    robust_weight: Positive = 2.0
    dual_norm: DualNorm = "none"
    inner: InnerAttack = InnerAttack()


class NcpAclConfig(Config):
    """NCP-ACL: Eq. 3 with the adversary of Eq. 4.

    `clusters` are the candidates that the silhouette chooses from; a single one is taken. The adversary goes "away"
    from the own centroid (strategy i), "toward" the `neighbour`-th nearest (ii; the own is the first), or "both" (iii).
    `assignment` says when an image's own and neighbouring centroid are found: in its "batch", of the augmented image
    that is attacked (Algorithm 1), or once an "epoch", of the image as it is (a departure, for comparison).
    """

    name: Literal["ncp-acl"]
    robust_weight: Positive = 6.0
    clusters: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    neighbour: Annotated[int, Field(ge=2)] = 2
    strategy: Literal["away", "toward", "both"] = "both"
    assignment: Literal["batch", "epoch"] = "batch"
    dual_norm: DualNorm = "adversarial"
    inner: InnerAttack = InnerAttack()

    @field_validator("clusters")
    @classmethod
    def _distinct(cls, clusters: list[int]) -> list[int]:
        if len(set(clusters)) < len(clusters):
            raise ValueError("clusters must be different numbers")
        return clusters

    @model_validator(mode="after")
    def _consistent(self) -> "NcpAclConfig":
        if self.neighbour > min(self.clusters):
            raise ValueError(f"neighbour {self.neighbour} is beyond the {min(self.clusters)} clusters of a candidate")
        return self


class AclConfig(Config):
    """ACL (Jiang et al. 2020, dual stream): NT-Xent of two views and of their adversarial selves, half and half.

    "dynacl" (Luo et al. 2023) lets the views' strength fall from 1 by equal steps, one every `decay_every` epochs, with
    `reweight` × (1 - strength) of weight going from the clean to the adversarial half; "dynacl-air" (Xu et al. 2023)
    adds `invariance` × its two regularisers, standard and adversarial. `target` above 0 gives the second views to
    another network, projection and all: a moving average of the weights, `target` its decay a step (DynACL's code:
    0.99), without gradients, and saved in their stead; 0 trains and saves a single network.
    """

    name: Literal["acl", "dynacl", "dynacl-air"]
    temperature: Positive = 0.5
    views: ViewsConfig = ViewsConfig()
    projection: ProjectionConfig = ProjectionConfig()
    decay_every: Count | None = None
    reweight: Annotated[float, Field(ge=0, le=1)] = 0.0
    invariance: NotNegative = 0.0
    target: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dual_norm: DualNorm = "adversarial"
    inner: InnerAttack = InnerAttack()

    @model_validator(mode="after")
    def _consistent(self) -> "AclConfig":
        if self.reweight > 0 and self.decay_every is None:
            raise ValueError("reweight follows the strength of views: set decay_every, or leave reweight 0")
        return self


class RoclConfig(Config):
    """RoCL (Kim et al. 2020): a view's adversarial self is a further positive, `regularisation` × its own NT-Xent."""

    name: Literal["rocl"]
    temperature: Positive = 0.5
    views: ViewsConfig = ViewsConfig()
    projection: ProjectionConfig = ProjectionConfig()
    regularisation: NotNegative = 1 / 256
    inner: InnerAttack = InnerAttack(steps=7)


class AdvclConfig(Config):
    """AdvCL (Fan et al. 2021): two views, an adversarial image and the image's high frequencies as four positives.

    The loss is `contrast_weight` × the contrast plus `cross_entropy_weight` × the cross-entropy of adversarial images
    toward pseudo-labels: the clusters, as many as each of `clusterings` says, of features of the encoder that
    `labeller` names, a run. High frequencies are those from `frequency` on, in cycles an image.
    """

    name: Literal["advcl"]
    temperature: Positive = 0.5
    views: ViewsConfig = ViewsConfig(smallest=0.2, blur=0.0)
    projection: ProjectionConfig = ProjectionConfig()
    labeller: str | None = None
    clusterings: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    contrast_weight: Positive = 1.0
    cross_entropy_weight: NotNegative = 0.2
    frequency: Positive = 8.0
    dual_norm: DualNorm = "adversarial"
    inner: InnerAttack = InnerAttack()


class PseudoLabelledConfig(Config):
    """DynACL++'s post-processing (Luo et al. 2023): TRADES toward clusters of the encoder's own features as labels.

    `clusters` pseudo-classes; a linear head is fitted to them for `probe_epochs` on features as they are, and then all
    weights are trained, `consistency_weight` × KL among the loss. The encoder alone is kept. "dynacl-air++" is the same
    from another encoder.
    """

    name: Literal["dynacl++", "dynacl-air++"]
    clusters: Annotated[int, Field(ge=2)] = 10
    probe_epochs: Count = 10
    probe_learning_rate: Positive = 0.01
    consistency_weight: Positive = 6.0
    inner: InnerAttack = InnerAttack(steps=10)
