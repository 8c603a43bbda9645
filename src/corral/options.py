"""Options that a function or a class declares by its signature: checked, strict, with its own defaults."""

import difflib
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Options(BaseModel):
    """What the keyword-only parameters of a function make: strict, frozen and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


@lru_cache(maxsize=256)
def options_model(of: Callable[..., object]) -> type[Options]:
    """The pydantic model of a function's keyword-only parameters: their names, annotations and defaults.

    Args:
        of: a function, or a class, whose `__init__` declares them. A parameter without an annotation takes anything.

    Raises:
        TypeError: annotations that are no types.
    """
    function = of.__init__ if isinstance(of, type) else of  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{of.__qualname__} has an annotation that names nothing ({error})") from error
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    return create_model(f"{of.__qualname__}Options", __base__=Options, **fields)


def option_names(of: Callable[..., object]) -> tuple[str, ...]:
    """The names of a function's options, in its order."""
    return tuple(options_model(of).model_fields)


def read_options(of: Callable[..., object], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A function's options with what was given for some of them, in its order; defaults for the others.

    Args:
        of: the function or the class.
        given: JSON-able values by name; a list serves as a tuple.
        what: whose options they are, for messages, such as "backbone 'mlp'".

    Raises:
        ValueError: an unknown option, with the nearest known one, or a value of another type or range; one line.
    """
    known = option_names(of)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            reads = f"it reads {', '.join(known)}" if known else "it reads no options"
            raise ValueError(f"{what} does not read {name!r}{hint}: {reads}")
    try:
        # As JSON: strict, but a list may stand for a tuple and a whole number for a float.
        found = options_model(of).model_validate_json(json.dumps(dict(given)))
    except TypeError as error:
        raise ValueError(f"{what}: options must be numbers, texts, lists or tables ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise ValueError(f"{what}: {place}: {words}{shown}") from None
    return {name: getattr(found, name) for name in known}
