"""A classifier by clusters: class scores of Eq. 4 in log space."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.geometry.kmeans import class_kmeans
from corral.geometry.radii import nearest_radius, soft_radius
from corral.geometry.scores import Rule, class_index, class_scores, cluster_scores, membership_scores
from corral.models.heads.base import HEADS, Clusters, Head, Spec, options_of
from corral.models.variance import feature_variance
from corral.options import Count, option_names, read_options
from corral.precision import full_precision

HeadRule = Rule | Literal["fuzzy"]
LEAST_VARIANCE = 1e-12


@full_precision
def _cluster_logits(features: Tensor, centroids: Tensor, variance: Tensor, index: Tensor, rule: Rule) -> Tensor:
    return class_scores(cluster_scores(features, centroids, variance), index, rule)


@full_precision
def _membership_logits(features: Tensor, centroids: Tensor, temperature: Tensor, index: Tensor) -> Tensor:
    return class_scores(membership_scores(features, centroids) / temperature, index)


class ClusterHead(Head):
    """A classifier by clusters: logits are the log-space class scores of Eq. 4 (ClusTR), their softmax is Eq. 4.

    ||f||^2 cancels between classes, so the scores are one affine map of the features and a log-sum-exp over each
    class's clusters. Everything runs in float32 or wider with autocast off.

    Centroids, classes and variance are buffers. `log_temperature` is a parameter that does not train until its
    `requires_grad_` says so; logits use variance × temperature.

    By the rule "fuzzy" a class's probability is the sum of its clusters' memberships of fuzzy c-means (Bezdek et al.
    1984; the critique, Sec. 5.1), of fuzzifier m = 1 + temperature: distances alone count, no variance.

    Args:
        centroids: (M, d) finite floats.
        classes: (M,) integers, the class of each centroid; every class in [0, C) has at least one.
        variance: sigma^2 > 0, finite, a number or a scalar tensor.
        rule: "soft" sums a class's clusters, "nearest" takes its best, an integer D in 1..M keeps the D best clusters,
            "fuzzy" sums memberships.
        temperature: positive factor on the variance.

    Raises:
        ValueError: any of these conditions fails.
    """

    name = "cluster"
    fitted = True
    rule: HeadRule
    centroids: Tensor
    classes: Tensor
    variance: Tensor
    index: Tensor

    def __init__(
        self,
        centroids: Tensor,
        classes: Tensor,
        variance: Tensor | float,
        rule: HeadRule = "soft",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, found {temperature}")
        self.rule = rule
        centroids, classes, variance, index = self._checked(centroids, classes, variance, None)
        self.register_buffer("centroids", centroids)
        self.register_buffer("classes", classes)
        self.register_buffer("variance", variance)
        self.register_buffer("index", index, persistent=False)
        self.log_temperature = nn.Parameter(centroids.new_tensor(math.log(temperature)), requires_grad=False)
        self.num_classes, self.features_dim = index.shape[0], centroids.shape[1]

    @property
    def temperature(self) -> Tensor:
        """The factor on the variance, a scalar tensor with gradient to `log_temperature`."""
        temperature: Tensor = self.log_temperature.exp()
        return temperature

    @property
    def effective_variance(self) -> Tensor:
        """Variance × temperature, what the logits divide by."""
        return self.variance * self.temperature

    @property
    def clusters(self) -> Clusters:
        """Its centroids."""
        return Clusters(self.centroids, self.classes, self.index, self.variance, self.effective_variance, self.rule)

    def _shown(self) -> tuple[str, dict[str, object]]:
        clusters = f"{len(self.centroids)} clusters of {self.num_classes} classes"
        return f"rule {self.rule}", {"clusters": clusters, "features": f"{self.features_dim} features"}

    def spec(self) -> Spec:
        """Its rule and how many centroids there are; where they lie is its state."""
        return {"name": self.name, "rule": self.rule, "clusters": len(self.centroids)}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Those of `spec`."""
        return option_names(_cluster_options)

    @classmethod
    def resolved(cls, options: Mapping[str, Any], classes: int) -> dict[str, Any]:
        """The rule, "soft" by default, and the number of centroids, by default one a class.

        Args:
            options: as a recipe states them.
            classes: C.

        Raises:
            ValueError: another option, fewer centroids than classes, or a rule that keeps more than there are.
        """
        found = read_options(_cluster_options, values=options, what=f"head {cls.name!r}")
        clusters = found["clusters"] = classes if found["clusters"] is None else found["clusters"]
        if clusters < classes:
            raise ValueError(f"clusters must be at least one a class, {classes}, found {clusters}")
        if isinstance(found["rule"], int) and found["rule"] > clusters:
            raise ValueError(f"rule must be at most the {clusters} clusters, found {found['rule']}")
        return found

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], features: int, classes: int) -> "ClusterHead":
        """Placeholder centroids, zeros dealt to the classes in turn, to be refitted or loaded.

        Args:
            spec: what `spec()` gave.
            features: d, the number of features.
            classes: C.
        """
        options = cls.resolved(options_of(spec), classes)
        owners = torch.arange(options["clusters"]) % classes
        return cls(torch.zeros(options["clusters"], features), owners, 1.0, rule=options["rule"])

    @classmethod
    def shapes(cls, spec: Mapping[str, Any], features: int, classes: int) -> dict[str, tuple[int, ...]]:
        """The shapes of its state by name.

        Args:
            spec: what `spec()` gave.
            features: d, the number of features.
            classes: C.
        """
        count = cls.resolved(options_of(spec), classes)["clusters"]
        return {"centroids": (count, features), "classes": (count,), "variance": (), "log_temperature": ()}

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Tensor,
        *,
        clusters: int | Sequence[int] = 1,
        rule: HeadRule = "soft",
        num_classes: int | None = None,
        restarts: int = 1,
        generator: torch.Generator | None = None,
    ) -> "ClusterHead":
        """A head on k-means clusters of every class's features, with their variance (ClusTR, after Eq. 3).

        Args:
            features: (N, d) finite floats, N >= 2.
            labels: (N,) integers in [0, C).
            clusters: of each class, one number or one a class; at most the members of the class.
            rule: as the constructor takes it.
            num_classes: C; default the largest label + 1.
            restarts: of k-means.
            generator: of k-means' starts; the same state gives the same head.

        Raises:
            ValueError: impossible features, labels, clusters or rule, or a class with fewer members than clusters.
        """
        if num_classes is None:
            num_classes = int(labels.max()) + 1 if len(labels) else 0
        found = class_kmeans(
            features, labels, clusters, num_classes=num_classes, restarts=restarts, generator=generator
        )
        variance = feature_variance(features.to(found.centroids), labels, found.centroids, found.classes)
        # Features that have collapsed onto their centroids leave no variance to divide by.
        return cls(found.centroids, found.classes, variance.clamp_min(LEAST_VARIANCE), rule=rule)

    def certified_radius(self, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
        """(N,) radii by its rule: "nearest" and 1 `nearest_radius` (exact), "soft" and D of all `soft_radius`.

        Args:
            features: (N, d).
            lipschitz: constant of everything before the head; radii are divided by it.

        Raises:
            UsageError: clusters whose classes were set past `refit`; a rule of D nearest clusters with 1 < D < all,
                whose scores jump where another cluster becomes one of the D, so that no such radius exists; or "fuzzy",
                for which none is known.
            ValueError: an effective variance that is not positive and finite, or what the radius itself refuses.
        """
        self._check_clusters()
        if self.rule == "nearest" or self.rule == 1:
            return nearest_radius(features, self.centroids, self.classes, lipschitz=lipschitz)
        if self.rule == "soft" or self.rule == len(self.centroids):
            variance = float(self.effective_variance.detach())
            return soft_radius(features, self.centroids, self.classes, variance, lipschitz=lipschitz)
        if self.rule == "fuzzy":
            raise UsageError('rule "fuzzy" has no certificate: certify the rule "nearest", "soft" or 1')
        raise UsageError(
            f"rule {self.rule} of {len(self.centroids)} clusters cannot be certified: its scores jump where another "
            'cluster becomes one of the nearest; certify the rule "nearest", "soft" or 1'
        )

    def _check_clusters(self) -> None:
        """Refuse buffers that do not go together: radii are of the centroids' classes, decisions by their index."""
        variance = float(self.effective_variance.detach())
        if not 0 < variance < math.inf:
            raise ValueError(f"a head's effective variance must be positive and finite, found {variance}")
        inside = self.index < len(self.centroids)
        owners = torch.full_like(self.classes, -1)
        owners[self.index[inside]] = inside.nonzero()[:, 0]
        if int(inside.sum()) != len(self.centroids) or not torch.equal(owners, self.classes):
            raise UsageError("the head decides by other classes of its centroids than it holds: set clusters by refit")

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) log-space class scores of features (N, d)."""
        if self.rule == "fuzzy":
            return _membership_logits(features, self.centroids, self.temperature, self.index)
        return _cluster_logits(features, self.centroids, self.effective_variance, self.index, self.rule)

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, C) class probabilities of features (N, d), Eq. 4, or sums of memberships."""
        logits: Tensor = self(features)
        return logits.softmax(1)

    def refit(self, centroids: Tensor, classes: Tensor, variance: Tensor | float) -> None:
        """Replace the clusters; their number M may change, the classes may not.

        Args:
            centroids: (M, d) finite floats.
            classes: (M,) integers, every class of the head at least once.
            variance: sigma^2 > 0.

        Raises:
            ValueError: as in the constructor, or d or C changed; the head then keeps what it had.
        """
        if centroids.dim() == 2 and centroids.shape[1] != self.features_dim:
            raise ValueError(f"centroids must have {self.features_dim} features, found {centroids.shape[1]}")
        centroids, classes, variance, index = self._checked(centroids, classes, variance, self.num_classes)
        device = self.centroids.device
        self.centroids, self.variance = centroids.to(self.centroids), variance.to(self.variance)
        self.classes, self.index = classes.to(device), index.to(device)

    def with_centroids(self, centroids: Tensor, variance: Tensor) -> "ClusterHead":
        """This head with other centroids and variance, for one batch: same classes, rule and temperature parameter.

        Nothing is checked or copied and the device is not stopped; gradients flow to both arguments.

        Args:
            centroids: (M, d) in the order of `classes`.
            variance: scalar tensor, positive.

        Raises:
            ValueError: the shapes are not those of the head.
        """
        if centroids.shape != self.centroids.shape or variance.dim() != 0:
            found = f"{tuple(centroids.shape)} and {tuple(variance.shape)}"
            raise ValueError(f"expected centroids {tuple(self.centroids.shape)} and a scalar variance, found {found}")
        head = copy.copy(self)
        head.__dict__["_buffers"] = {**self._buffers, "centroids": centroids, "variance": variance}
        return head

    def _checked(
        self, centroids: Tensor, classes: Tensor, variance: Tensor | float, num_classes: int | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if centroids.dim() != 2 or centroids.shape[0] == 0 or not centroids.is_floating_point():
            raise ValueError(f"centroids must be (M, d) floats, found {tuple(centroids.shape)} {centroids.dtype}")
        if classes.shape != centroids.shape[:1] or classes.is_floating_point():
            found = f"{tuple(classes.shape)} {classes.dtype}"
            raise ValueError(f"classes must be ({len(centroids)},) integers, one a centroid, found {found}")
        if not bool(torch.isfinite(centroids).all()):
            raise ValueError("centroids must be finite, found NaN or infinity")
        centroids = centroids.detach().clone()
        centroids = centroids.float() if centroids.element_size() < 4 else centroids
        variance = torch.as_tensor(variance, dtype=centroids.dtype, device=centroids.device).detach().clone()
        if variance.dim() != 0 or not bool((variance > 0) & torch.isfinite(variance)):
            raise ValueError(f"variance must be one positive, finite number, found {variance.tolist()}")
        allowed = self.rule in ("soft", "nearest", "fuzzy") if isinstance(self.rule, str) else type(self.rule) is int
        if not allowed or (isinstance(self.rule, int) and not 1 <= self.rule <= len(centroids)):
            raise ValueError(
                f'rule must be "soft", "nearest", "fuzzy" or an integer from 1 to {len(centroids)} clusters, '
                f"found {self.rule!r}"
            )
        index = class_index(classes, num_classes).to(centroids.device)
        return centroids, classes.detach().to(centroids.device, torch.long, copy=True), variance, index

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A saved head may have another number of clusters than this one: take its shapes, then rebuild the index.
        errors: list[str] = args[-1]
        found = len(errors)
        centroids: Any = state_dict.get(prefix + "centroids")
        classes: Any = state_dict.get(prefix + "classes")
        given = isinstance(centroids, Tensor) and isinstance(classes, Tensor)
        if given and classes.dim() == 1 and centroids.shape == (len(classes), self.features_dim):
            self.centroids = self.centroids.new_zeros(centroids.shape)
            self.classes = self.classes.new_zeros(classes.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if len(errors) > found:
            return
        try:
            *_, self.index = self._checked(self.centroids, self.classes, self.variance, self.num_classes)
            if not 0 < (scale := float(self.effective_variance.detach())) < math.inf:
                raise ValueError(f"variance × temperature is {scale}")
        except ValueError as error:
            errors.append(f"{prefix.rstrip('.') or 'head'}: {error}")


def _cluster_options(
    *, rule: Literal["soft", "nearest", "fuzzy"] | Count = "soft", clusters: Count | None = None
) -> None:
    """The options of a cluster head that a description states: rule and number of centroids."""


HEADS.add(ClusterHead.name, ClusterHead)
