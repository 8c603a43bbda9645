"""The classifier: channel normalisation, backbone, head, as one plain module."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from corral.distributed import rows
from corral.models.backbones import Backbone
from corral.models.heads import Head
from corral.notebook import Shown

if TYPE_CHECKING:
    from corral.models.backbones import BackboneLike
    from corral.models.spec import ModelSpec
    from corral.records import Record


class Normalisation(nn.Module):
    """(x - mean) / std per channel, so that eps, clamping and attacks outside stay in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=dtype).detach().clone())
        self.register_buffer("std", torch.as_tensor(std, dtype=dtype).detach().clone())
        if self.mean.dim() != 1 or self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean and std need one number a channel, found {tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            )
        if not bool((self.std > 0).all()) or not bool(torch.isfinite(self.mean).all()):
            raise ValueError(f"mean must be finite and std positive, found {self.mean.tolist()}, {self.std.tolist()}")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) pixels as normalised channels."""
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


class Classifier(Shown, nn.Module):
    """An image classifier: float [0, 1] NCHW in, (N, C) logits out; any attack library takes it as it is.

    Args:
        backbone: images (N, channels, H, W) -> features (N, d).
        head: features (N, d) -> logits (N, C).
        mean: per-channel mean of the pixels, in [0, 1].
        std: per-channel standard deviation of the pixels, positive.
        image_size: (H, W) that inputs must have; None takes what the backbone takes.

    Attributes:
        class_names: of the logits, where they are known.
        spec: what it was built from, where it was built from a description.

    Raises:
        ValueError: mean and std do not fit each other, or the backbone's `features_dim` is not the head's.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        *,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.normalisation = Normalisation(mean, std)
        self.backbone = backbone
        self.head = head
        self.image_size = image_size
        self.class_names: tuple[str, ...] | None = None
        self.spec: ModelSpec | None = None
        self._check_head(head)

    @property
    def num_classes(self) -> int:
        """C, the number of logits."""
        return self.head.num_classes

    @property
    def features_dim(self) -> int:
        """d, the length of a feature vector."""
        return self.head.features_dim

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images.

        Args:
            x: (N, channels, H, W) in [0, 1], of the model's dtype.

        Returns:
            (N, C) logits, float32 or wider even under autocast.

        Raises:
            ValueError: x has the wrong rank, channels, size or dtype.
        """
        return self.logits_from(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(N, d) features of images (N, channels, H, W); of x's dtype, also under autocast.

        Where several processes share a training batch, this one computes those of its rows and gathers the others'.
        """
        self._check_input(x)
        if rows.is_split():
            return rows.gather(self._features(rows.scatter(x)), len(x))
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(self.normalisation(x))
        return features.to(x.dtype)

    def logits_from(self, features: Tensor) -> Tensor:
        """(N, C) logits of features (N, d); the heads switch autocast off for themselves."""
        logits: Tensor = self.head(features)
        return logits

    def export(self, path: str | Path, *, image_size: tuple[int, int] | None = None) -> Path:
        """Write it to a .pt2 (torch.export), .ts (TorchScript) or .onnx file; see `corral.models.export`.

        Args:
            path: the file; its ending says which format.
            image_size: (H, W) where the classifier takes any.
        """
        from corral.models.export import export_classifier  # that module is about this class

        return export_classifier(self, path, image_size=image_size)

    def save(self, path: str | Path, *, image_shape: tuple[int, int, int] | None = None) -> Path:
        """Write it to one safetensors file, which `load` reads; see `corral.models.saved.save_classifier`.

        Args:
            path: the file, which is written whole or not at all.
            image_shape: (channels, H, W) where the classifier takes images of any size.
        """
        from corral.models.saved import save_classifier  # that module is about this class

        return save_classifier(self, path, image_shape=image_shape)

    @staticmethod
    def load(
        path: str | Path, *, device: torch.device | str = "cpu", backbone: "BackboneLike | None" = None
    ) -> "Classifier":
        """Read a file of `save`, or a run's model, in eval mode; see `corral.models.saved.load_classifier`.

        Args:
            path: the file.
            device: where the classifier goes.
            backbone: its own, where it is a user's and is not imported here; as `corral.load` takes it.
        """
        from corral.models.saved import load_classifier  # that module is about this class

        return load_classifier(path, device=device, backbone=backbone)

    def save_pretrained(self, folder: str | Path, *, record: "Record | Sequence[Record]" = (), **options: Any) -> Path:
        """Write it to a folder with a configuration and a card; see `corral.models.hub.save_pretrained`.

        Args:
            folder: made where there is none; a run is never written over.
            record: one or several of its evaluations, which the card states.
            **options: `name`, `license` and `image_shape` of that function.
        """
        from corral.models.hub import save_pretrained  # that module is about this class

        return save_pretrained(self, folder, record=record, **options)

    def push_to_hub(self, repo_id: str, *, record: "Record | Sequence[Record]" = (), **options: Any) -> str:
        """Upload it to the Hugging Face Hub with a card; see `corral.models.hub.push_to_hub`.

        Args:
            repo_id: "user/name".
            record: one or several of its evaluations, which the card states.
            **options: `license`, `image_shape`, `private`, `revision`, `token` and `message` of that function.
        """
        from corral.models.hub import push_to_hub  # that module is about this class

        return push_to_hub(self, repo_id, record=record, **options)

    @staticmethod
    def from_pretrained(
        source: str | Path, *, backbone: "BackboneLike | None" = None, revision: str | None = None, **options: Any
    ) -> "Classifier":
        """Read such a folder or repository, in eval mode; see `corral.models.hub.from_pretrained`.

        Args:
            source: a folder, or a repository of the Hub, "user/name".
            backbone: its own, where it is not corral's; as `corral.load` takes it.
            revision: branch, tag or commit of the repository.
            **options: `token` and `device` of that function.
        """
        from corral.models.hub import from_pretrained  # that module is about this class

        return from_pretrained(source, backbone=backbone, revision=revision, **options)

    def with_head(self, head: Head) -> "Classifier":
        """A classifier with another head on the *same* normalisation and backbone modules (nothing is copied)."""
        self._check_head(head)
        twin = Classifier(
            self.backbone, head, self.normalisation.mean, self.normalisation.std, image_size=self.image_size
        )
        twin.normalisation = self.normalisation
        twin.training, twin.class_names, twin.spec = self.training, self.class_names, self.spec
        return twin

    def _shown(self) -> tuple[str, dict[str, object]]:
        name = type(self.backbone).__name__ if self.spec is None else self.spec.backbone.name
        size = ("H", "W") if self.image_size is None else self.image_size
        return name, {
            "images": f"images ({', '.join(map(str, (len(self.normalisation.mean), *size)))})",
            "parameters": f"{sum(parameter.numel() for parameter in self.parameters()):,} parameters",
            "head": repr(self.head),
            "classes": f"{self.num_classes} classes",
        }

    def _check_head(self, head: Head) -> None:
        # Plain modules serve as backbone or head too; then there is nothing to compare.
        given, expected = getattr(self.backbone, "features_dim", None), getattr(head, "features_dim", None)
        if given is not None and expected is not None and given != expected:
            raise ValueError(f"the backbone gives {given} features, the head expects {expected}")

    def _check_input(self, x: Tensor) -> None:
        # Shapes and dtypes only: looking at values would stop the device once a batch.
        channels, dtype = self.normalisation.mean.shape[0], self.normalisation.mean.dtype
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"images must be (N, {channels}, H, W), found {tuple(x.shape)}")
        if self.image_size is not None and tuple(x.shape[2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(f"images must be {height}×{width}, found {x.shape[2]}×{x.shape[3]}: resize them")
        if x.dtype != dtype:
            raise ValueError(f"images must be {dtype} in [0, 1] like the model, found {x.dtype}: convert them")
