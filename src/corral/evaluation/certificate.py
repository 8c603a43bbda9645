"""The record of a certification: radii proved and attacks tried, on the same images."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from corral.documents import read_document
from corral.errors import CorralError
from corral.records import OfRun, as_percent
from corral.strict import Amount, Frozen, Radius, Seconds, Share

# The least l2 distance between two different images of 8 bits a value: a smaller radius holds no other image.
NEXT_IMAGE = 1 / 255


class LayerConstant(Frozen):
    """One factor of the Lipschitz constant: the layer, its bound, and how that was found."""

    name: str
    bound: float = Field(ge=0)
    how: str


class CertifiedAt(Frozen):
    """Accuracies at one l2 radius in pixel units.

    `certified` is the share of the images that are classified right with a larger certified radius, `attacked` the
    share that is classified right under every attack within the radius; None without attacks.
    """

    radius: Radius
    certified: Share
    attacked: Share | None = None


class CertifyingAttack(Frozen):
    """An attack on the certified images."""

    name: str
    description: str
    settings: dict[str, int | float | str | bool]
    seconds: Seconds


class Certificate(OfRun):
    """One certification of one classifier.

    Attributes:
        lipschitz: guaranteed upper bound on the l2 Lipschitz constant of pixels to features.
        layers: its factors.
        at: the radii that were asked for.
        curve: the same on an even grid up to the largest radius.
        median: of the certified radii of the images classified right, in pixel units; 0 if none is.
        below_next: share of the images classified right whose radius is below 1/255, so that it holds no other image of
            8 bits a value.
        broken: images for which an attack found a misclassified point within the certified radius. Above 0 the
            certificates are wrong.
    """

    format: Literal["corral-certificate-1", "corral-certificate-2"] = "corral-certificate-2"
    norm: Literal["L2"] = "L2"
    clean: Share
    lipschitz: float = Field(ge=0)
    layers: list[LayerConstant]
    at: list[CertifiedAt]
    curve: list[CertifiedAt]
    median: float = Field(ge=0)
    below_next: Share
    attacks: list[CertifyingAttack]
    broken: Amount
    seed: int
    certify_seconds: Seconds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.broken > self.n:
            raise ValueError(f"{self.broken} broken certificates of {self.n} images")
        for point in (*self.at, *self.curve):
            if not self.broken and point.attacked is not None and point.certified > point.attacked:
                raise ValueError(f"certified {point.certified} is above attacked {point.attacked} at {point.radius:g}")
        return self

    def _shown(self) -> tuple[str, dict[str, object]]:
        title, facts = super()._shown()
        shares = {
            f"at {one.radius:g}": f"certified {as_percent(one.certified)}% at {one.radius:.3g}" for one in self.at
        }
        radii = {"median": f"median radius {self.median:.3g} in L2", "broken": f"{self.broken} broken"}
        return title, facts | {"clean": f"clean {as_percent(self.clean)}%"} | shares | radii


class BrokenCertificatesError(CorralError):
    """An attack found misclassified images within certified radii; `certificate` is what was written."""

    def __init__(self, message: str, certificate: Certificate) -> None:
        super().__init__(message)
        self.certificate = certificate


def read_certificate(path: Path) -> Certificate:
    """Read and check a certificate; raises as `read_document`."""
    return read_document(path, Certificate, kind="certificate", command="corral certify")
