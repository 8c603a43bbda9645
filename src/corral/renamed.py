"""Keyword arguments by their earlier names: taken, with a warning that gives the present name."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function takes keywords by their earlier names too; `names` gives the present name of each."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for earlier in names.keys() & kwargs.keys():
                name = names[earlier]
                if name in kwargs:
                    raise TypeError(
                        f"{function.__name__}() takes {name!r}, and {earlier!r} as its earlier name: give one"
                    )
                warnings.warn(f"{function.__name__}({earlier}=) is called {name} now", FutureWarning, stacklevel=2)
                kwargs[name] = kwargs.pop(earlier)
            return function(*args, **kwargs)

        return called

    return decorate
