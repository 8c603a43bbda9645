"""What every table of a recipe is built from, and the tables that methods read."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from corral.attacks.checks import eps_number
from corral.strict import MOST_RADIUS, Settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Config(Settings):
    """A table of a recipe: values of another type are errors too, and numbers beyond every use."""


class InnerAttack(Config):
    """The adversary inside training: `steps` of `step_ratio` × eps, the model in `mode`.

    `mode` says which statistics BatchNorm has under attack, its running ones ("eval") or the attacked batch's
    ("train"). `objective` is climbed in the place of the method's own, where that is of logits: the "margin" of the
    best other class, the difference of logits ratio ("dlr"), or the probability of a random other class ("targeted").
    """

    steps: Count = 5
    step_ratio: Positive = 0.25
    mode: Literal["eval", "train"] = "eval"
    objective: Literal["margin", "dlr", "targeted"] | None = None


class ThreatConfig(Config):
    """Norm and radius, in pixel units."""

    norm: Literal["Linf", "L2"] = "Linf"
    eps: float = 0.1

    @field_validator("eps", mode="before")
    @classmethod
    def _parse(cls, value: object, info: ValidationInfo) -> float:
        return parse_eps(value, info.data.get("norm", "Linf"))


def parse_eps(value: object, norm: str = "Linf") -> float:
    """An eps in pixel units from a number or a fraction such as "8/255".

    Args:
        value: a number or its text.
        norm: of the ball; an Linf eps is at most 1, an L2 eps may be more.

    Raises:
        ValueError: not a number, negative, or above the pixel range (the message says what was likely meant).
    """
    number = eps_number(value)
    if not 0 <= number <= MOST_RADIUS or (norm == "Linf" and number > 1):
        hint = f"; did you mean {value}/255?" if 1 < number <= 255 else ""
        raise ValueError(f"eps is in pixel units of images in [0, 1], found {value}{hint}")
    return number
