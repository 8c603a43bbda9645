"""What every piece of a document, a recipe or a specification is built from."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# The largest whole number and the largest float that a setting may be: in float32 and int64 nothing that is made of
# two of them overflows. The largest seed of the generators is the first.
MOST_WHOLE, MOST_REAL = 2**32 - 1, 1e9
# Pixels are in [0, 1]: the largest l1 distance of images of a billion values, above any that fits into memory.
MOST_RADIUS = 1e9

Share = Annotated[float, Field(ge=0, le=1)]
"""An accuracy or another share."""
Amount = Annotated[int, Field(ge=0, le=2**53)]
"""How many, as JSON holds it exactly."""
AtLeastOne = Annotated[int, Field(ge=1, le=2**53)]
"""How many were measured: a share of none is no number."""
Seconds = Annotated[float, Field(ge=0, le=1e12)]
"""A duration."""
Radius = Annotated[float, Field(ge=0, le=MOST_RADIUS)]
"""A distance between images, in pixel units."""


class Frozen(BaseModel):
    """Immutable; unknown keys, NaN and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OfThreat(Frozen):
    """A document with a `norm` and one or more `eps`: an Linf radius is at most the pixels' range."""

    @model_validator(mode="after")
    def _within_the_pixels(self) -> "OfThreat":
        norm, eps = getattr(self, "norm", None), getattr(self, "eps", 0.0)
        largest = max(eps, default=0.0) if isinstance(eps, list | tuple) else eps
        if norm == "Linf" and largest > 1:
            raise ValueError(f"an Linf eps is at most 1, found {largest:g}")
        return self


class Settings(Frozen):
    """What a user chooses: a value of another type is an error too, and so is a number beyond every use."""

    model_config = ConfigDict(strict=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        for one in value if isinstance(value, list | tuple) else (value,):
            check_bounded(one)
        return value


def check_bounded(value: object) -> None:
    """Refuse a number that no setting can be; anything else passes.

    Raises:
        ValueError: says the bound.
    """
    if isinstance(value, float) and abs(value) > MOST_REAL:
        raise ValueError(f"must be within ±{MOST_REAL:g}")
    if isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise ValueError(f"must be within ±{MOST_WHOLE:,}")
