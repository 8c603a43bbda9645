"""Registries: what a name of a method, an attack, a head ... stands for; open to other packages and to users."""

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from types import ModuleType
from typing import Generic, TypeVar

from corral.errors import CorralError, UsageError, closest
from corral.files import user_path

T = TypeVar("T")
C = TypeVar("C", bound=type)

# An environment variable: files and modules that register what they hold, separated by commas.
PLUGINS = "CORRAL_PLUGINS"


class Registry(Generic[T]):
    """The objects of one noun by name.

    A name is looked for in what is registered; then among the plugins that CORRAL_PLUGINS names and the entry points of
    `group`; then it may be a target, "package.module:object" or "file.py:object".

    Args:
        noun: for messages, such as "attack".
        group: of entry points, such as "corral.attacks".
        package: its modules are imported before the first look, so that each registers what it holds.
        check: of what a target names; returns the thing, or raises TypeError that says what it should be.
    """

    def __init__(
        self, noun: str, *, group: str, package: str | None = None, check: Callable[[object], T] | None = None
    ) -> None:
        self.noun, self.group = noun, group
        self._package, self._check = package, check
        self._things: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._aliases: dict[str, str] = {}
        self._earlier: set[str] = set()
        self._held: dict[str, T] = {}
        self._filled = package is None
        self._entries_read = False

    def add(self, name: str, thing: T, *, source: object = None) -> T:
        """Register `thing` and return it; from the same place (a notebook's cell run again) it replaces the earlier.

        Args:
            name: it is found by.
            thing: what the name stands for.
            source: the function or class that it was made of, where it is neither.

        Raises:
            UsageError: a name that is empty, has a colon or is taken.
        """
        if not name or ":" in name:
            raise UsageError(f"a {self.noun} needs a name without a colon, found {name!r}")
        origin = thing if source is None else source
        place = f"{getattr(origin, '__module__', '')}.{getattr(origin, '__qualname__', type(origin).__name__)}"
        if not place.startswith("corral."):
            self._fill()  # the package's own names come first
        if name in self._aliases and name not in self._earlier:
            raise UsageError(f"{self.noun} {name!r} is {self._aliases[name]!r} already: give {place} another name")
        if name in self._things and self._places[name] != place:
            raise UsageError(
                f"{self.noun} {name!r} is registered already, by {self._places[name]}: give {place} another name"
            )
        self._things[name], self._places[name] = thing, place
        return thing

    def alias(self, name: str, of: str, *, earlier: bool = False) -> None:
        """Let a second name stand for what is registered as `of`; lists show `of` alone.

        An `earlier` one warns, and is free for whoever registers it.
        """
        self._aliases[name] = of
        if earlier:
            self._earlier.add(name)

    def hold(self, name: str, thing: object) -> None:
        """Let a name or a target stand, in this process, for a thing that the user gave; lists do not show it.

        Raises:
            UsageError: it is not of this noun.
        """
        self._held[name] = self._checked(name, thing)

    def find(self, name: str, *, code: bool = True) -> T:
        """What a name or a target stands for.

        Args:
            name: a registered name, "package.module:object" or "file.py:object".
            code: whether a target may be imported that was not yet. False for a name out of a document that the user
                did not write, such as a run folder: reading it must not run code.

        Raises:
            UsageError: nothing of the name, or a target that is not there or is something else.
            CorralError: a target's own code failed.
        """
        if not isinstance(name, str):
            raise UsageError(f"a {self.noun} is named by text, found {type(name).__name__}")
        if name in self._held:
            return self._held[name]
        self._fill()
        if name in self._earlier:
            self._read_entries()  # a plugin may have taken the name
        present = self._present(name)
        if present != name and name in self._earlier:
            warnings.warn(f"{self.noun} {name!r} is called {present!r} now", FutureWarning, stacklevel=2)
        if present in self:
            return self._things[present]
        if is_target(name):
            return self._checked(name, find_target(name, self.noun, code=code))
        raise UsageError(
            f"unknown {self.noun} {name!r}{closest(name.lower(), self.names())}; known: {', '.join(self.names())}; "
            "or name your own as file.py:object or package.module:object"
        )

    def names(self) -> tuple[str, ...]:
        """Every registered name, in the order of registering; those of installed packages last."""
        self._fill()
        self._read_entries()
        return tuple(self._things)

    def items(self) -> tuple[tuple[str, T], ...]:
        """Every registered name with what it stands for."""
        return tuple((name, self._things[name]) for name in self.names())

    def __getitem__(self, name: str) -> T:
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        self._fill()
        if not isinstance(name, str):
            return False
        if name not in self._things:
            self._read_entries()
        return name in self._held or self._present(name) in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _present(self, name: str) -> str:
        """The name that a thing is registered by, of a second one."""
        return name if name in self._things else self._aliases.get(name, name)

    def _fill(self) -> None:
        """Import the modules of the package's own folder."""
        if self._filled or self._package is None:
            return
        self._filled = True  # before the imports: they may look names up
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")

    def _read_entries(self) -> None:
        """Register what plugins and entry points hold; a package that fails to import is named on stderr."""
        if self._entries_read:
            return
        self._entries_read = True
        import_plugins()
        for entry in entry_points(group=self.group):
            if entry.name in self._things:
                continue
            try:
                thing = entry.load()
            except Exception as error:  # whatever a foreign package raises
                sys.stderr.write(f"corral: {self.noun} {entry.name!r} of {entry.value} cannot be imported ({error})\n")
                continue
            if entry.name not in self._things:  # importing it may have registered it
                self.add(entry.name, self._checked(entry.value, thing), source=thing)

    def _checked(self, target: str, thing: object) -> T:
        """What a target names, if it is of this noun."""
        if self._check is None:
            raise UsageError(f"a {self.noun} cannot be named by {target!r}: register it")
        try:
            return self._check(thing)
        except TypeError as error:
            raise UsageError(f"{target} is no {self.noun}: {error}") from error


def register(thing: C) -> C:
    """Register a class of one of corral's kinds by its `name`; a decorator that returns the class.

        @corral.register
        class Mart(corral.Method):
            name = "mart"

    Args:
        thing: a subclass of `corral.Method`, `corral.Head` or another class with a class attribute `registry`, and with
            a class attribute `name` of its own.

    Raises:
        UsageError: another kind of class, no name of its own, or a name that is taken.
    """
    registry = getattr(thing, "registry", None)
    if not isinstance(thing, type) or not isinstance(registry, Registry):
        found = f"the class {thing.__qualname__}" if isinstance(thing, type) else repr(thing)
        raise UsageError(f"corral.register takes a class of corral's, such as a corral.Method, found {found}")
    name = vars(thing).get("name")
    if not isinstance(name, str):
        raise UsageError(f"{thing.__qualname__} needs a name of its own to be registered by, such as name = 'mine'")
    registry.add(name, thing)
    return thing


def is_target(name: str) -> bool:
    """Whether a name reads as "file.py:object" or "package.module:object"."""
    module, colon, attribute = name.rpartition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return bool(colon) and attribute.isidentifier() and (module.endswith(".py") or dotted)


def find_target(target: str, noun: str, *, code: bool = True) -> object:
    """The object that "file.py:object" or "package.module:object" names; see `Registry.find`.

    Raises:
        UsageError: no such file, module or object; or one not imported yet while `code` is False.
        CorralError: its own code failed.
    """
    source, _, attribute = target.rpartition(":")
    name = _module_name(source)
    if name not in sys.modules and not code:
        raise UsageError(
            f"{noun} {target!r} is code outside corral, which a document does not make it run: if you trust it, import "
            f"it first (`corral --plugin {source} ...`, or the environment variable CORRAL_PLUGINS)"
        )
    module = import_plugin(source)
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UsageError(f"{source} has no {attribute!r}{closest(attribute, public)}")
    found: object = getattr(module, attribute)
    return found


def import_plugin(source: str) -> ModuleType:
    """Import a module, or a file as a module, so that it registers what it holds; once in a process.

    Args:
        source: "package.module" or the path of a .py file.

    Raises:
        UsageError: no such module or file.
        CorralError: its own code failed.
    """
    name = _module_name(source)
    if name in sys.modules:
        return sys.modules[name]
    path = user_path(source)
    try:
        if source.endswith(".py"):
            if not path.is_file():
                raise UsageError(f"{source}: no such file")
            spec = importlib.util.spec_from_file_location(name, path.resolve())
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(name)
    except CorralError:
        sys.modules.pop(name, None)
        raise
    except ModuleNotFoundError as error:
        sys.modules.pop(name, None)
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"no module {source!r}: install it, or give a file.py") from error
        raise CorralError(f"{source}: needs the module {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever a foreign file raises
        sys.modules.pop(name, None)
        raise CorralError(f"{source}: failed when it was imported ({type(error).__name__}: {error})") from error


def import_plugins(sources: Iterable[str] = ()) -> None:
    """Import the files and modules that the environment variable CORRAL_PLUGINS names, and more.

    Args:
        sources: more of them, which are added to the variable, so that processes begun from this one have them too.

    Raises:
        UsageError: no such module or file.
        CorralError: a plugin's own code failed.
    """
    known = [source.strip() for source in os.environ.get(PLUGINS, "").split(",") if source.strip()]
    more = [lasting_source(source) for source in sources]
    for source in [*known, *more]:
        import_plugin(source)
    if more:
        os.environ[PLUGINS] = ",".join(dict.fromkeys([*known, *more]))


def lasting(target: str) -> str:
    """A target as a document should name it: a file by its whole path, so that another folder finds it too."""
    source, _, attribute = target.rpartition(":")
    return f"{lasting_source(source)}:{attribute}"


def lasting_source(source: str) -> str:
    """A plugin as another process should name it: a file by its whole path."""
    return str(user_path(source).resolve()) if source.endswith(".py") else source


def _module_name(source: str) -> str:
    """The name in `sys.modules` of a module or of a file."""
    if not source.endswith(".py"):
        return source
    path = user_path(source).resolve()
    return f"corral_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
