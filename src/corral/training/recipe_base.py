"""What every table of a recipe is built from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """A strict and frozen table of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class InnerAttack(Config):
    """The adversary inside training: `steps` of `step_ratio` × eps, the model in `mode`."""

    steps: Count = 5
    step_ratio: Positive = 0.25
    mode: Literal["eval", "train"] = "eval"
