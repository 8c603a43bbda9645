"""`corral.register`: adding a method, a head, an attack ... to corral from outside of it."""

from collections.abc import Callable
from typing import Any, TypeVar

from corral.attacks.protocols import register_protocol
from corral.attacks.registry import register_attack
from corral.data.registry import register_data, register_path_data
from corral.errors import UsageError
from corral.models.backbones import register_backbone
from corral.registry import Registry

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


class Register:
    """What `corral.register` is: a decorator of classes, and a decorator of functions for every other noun."""

    attack = staticmethod(register_attack)
    data = staticmethod(register_data)
    path_data = staticmethod(register_path_data)
    protocol = staticmethod(register_protocol)
    backbone = staticmethod(register_backbone)

    @property
    def analysis(self) -> Callable[..., Callable[[F], F]]:
        """`corral.analysis.registry.register_analysis`."""
        # Imported late: it is of trained runs, and methods register themselves here.
        from corral.analysis.registry import register_analysis

        return register_analysis

    def __call__(self, thing: C) -> C:
        """Register a class of one of corral's kinds by its `name`; a decorator.

            @corral.register
            class Mart(corral.Method):
                name = "mart"

        Args:
            thing: a subclass of `corral.Method` or `corral.Head`, with a class attribute `name` of its own.

        Returns:
            The class.

        Raises:
            UsageError: another kind of class, no name of its own, or a name that is taken.
        """
        registry = getattr(thing, "registry", None)
        if not isinstance(thing, type) or not isinstance(registry, Registry):
            raise UsageError(
                f"corral.register takes a class of corral's, such as a corral.Method, found {_words(thing)}"
            )
        name = vars(thing).get("name")
        if not isinstance(name, str):
            raise UsageError(f"{thing.__qualname__} needs a name of its own to be registered by, such as name = 'mine'")
        registry.add(name, thing)
        return thing


def _words(thing: Any) -> str:
    return f"the class {thing.__qualname__}" if isinstance(thing, type) else repr(thing)


register = Register()
