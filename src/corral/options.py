"""Options that a function or a class declares by its signature alone: names, types, ranges and defaults."""

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, create_model

from corral.errors import UsageError, closest
from corral.strict import Settings

# Sizes of networks; beyond these a single layer, or the list of all, takes more than any memory.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Depth = Annotated[int, Field(ge=1, le=10_000)]
Positive = Annotated[float, Field(gt=0)]


class Options(Settings):
    """What was not declared is an error, and so is a value of another type, or a number beyond every use."""

    model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True)


class _Open(Options):
    """The options of a function that passes on, by `**kwargs`, what it does not declare."""

    model_config = ConfigDict(extra="allow")


@lru_cache(maxsize=256)
def options_model(*of: Callable[..., object], given: tuple[str, ...] = ()) -> type[Options]:
    """The pydantic model of the parameters of functions; where several have one of a name, the first's counts.

    Args:
        of: functions, or classes, whose `__init__` is meant. A parameter without an annotation takes anything.
        given: names of parameters that are no options.

    Raises:
        UsageError: an annotation that names nothing, or that pydantic knows no check of.
    """
    fields: dict[str, Any] = {}
    for one in of:
        try:
            hints = typing.get_type_hints(_hinted(one), include_extras=True)
        except NameError as error:
            raise UsageError(f"{_name(one)}: an annotation names nothing ({error})") from error
        for name, parameter in inspect.signature(one).parameters.items():
            if name not in given and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                default = ... if parameter.default is parameter.empty else parameter.default
                fields.setdefault(name, (hints.get(name, Any), default))
    try:
        return create_model(f"OptionsOf{_name(of[0])}", __base__=_Open if _passes_on(of[0]) else Options, **fields)
    except Exception as error:  # pydantic's own kinds, of annotations that it cannot check
        raise UsageError(f"{_name(of[0])}: its options cannot be checked ({str(error).splitlines()[0]})") from error


def option_names(*of: Callable[..., object], given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the options of functions, in their order; see `options_model`."""
    return tuple(options_model(*of, given=given).model_fields)


def read_options(
    *of: Callable[..., object], values: Mapping[str, Any], what: str, given: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options of functions with the values that were chosen, in their order; defaults for the others.

    Args:
        of: see `options_model`.
        values: JSON-able ones by name; a list serves as a tuple, a whole number as a float.
        what: whose options they are, for messages, such as "backbone 'mlp'".
        given: names of parameters that are no options.

    Raises:
        ValueError: an unknown option, with the nearest known one, or a value of another type or range; one line.
        UsageError: annotations that cannot be checked.
    """
    known = option_names(*of, given=given)
    for name in values:
        if name not in known and not _passes_on(of[0]):
            listed = ", ".join(known) or "no options"
            raise ValueError(f"{what} does not read {name!r}: it reads {listed}{closest(name, known)}")
    try:
        found = options_model(*of, given=given).model_validate_json(json.dumps(dict(values)))
    except ValidationError as error:
        first = error.errors()[0]
        place, words = first["loc"][0], first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise ValueError(f"{what}: {place}: {words}{shown}") from None
    except (TypeError, ValueError) as error:  # of what JSON does not hold
        raise ValueError(f"{what}: options must be numbers, texts, lists or tables ({error})") from None
    return {name: getattr(found, name) for name in (*known, *(found.model_extra or {}))}


def _passes_on(function: Callable[..., object]) -> bool:
    """Whether a function has `**kwargs`."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values())


def _hinted(one: Callable[..., object]) -> Any:
    """Where the annotations of a callable's parameters are."""
    if isinstance(one, type):
        return one.__init__  # type: ignore[misc]
    return one if inspect.isroutine(one) else type(one).__call__


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", type(function).__name__)
