"""A model that code makes: `module:function`, imported only from the folder that the user names."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

from corral.errors import CorralError, UsageError
from corral.files import user_path


def load_python(target: str, folder: Path | None) -> nn.Module:
    """Import a module and get a model from it.

    Args:
        target: "path/to/file.py:name" or "package.module:name". The name is a function without arguments that returns
            the model, a module class to be made without arguments, or the model itself.
        folder: where a dotted name is looked up, and nowhere else, and what the code imports is found first; by default
            the current folder, or that of the file.

    Returns:
        The model as the code made it, its mode untouched.

    Raises:
        UsageError: a target that is neither form, or no such file, module or name.
        CorralError: code that fails, or something that is not a model.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError(f"target {target!r} needs a function's name after the colon, such as models.py:load")
    module_name, file, root = _located(target, place, folder)
    # What foreign code prints belongs to the user, not into this command's result.
    with _importing_from(root, module_name), contextlib.redirect_stdout(sys.stderr):
        module = _imported(target, module_name, file)
        try:
            found = getattr(module, name)
        except AttributeError:
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            hint = f"; it has {', '.join(sorted(known)[:8])}" if known else ""
            raise UsageError(f"{target}: {file} has no {name!r}{hint}") from None
        return _model(target, found)


def _located(target: str, place: str, folder: Path | None) -> tuple[str, Path, Path]:
    """The module's name, its file and the folder that it is imported from."""
    if place.endswith(".py"):
        file = user_path(place)
        if not file.is_file() and folder is not None and (folder / place).is_file():
            file = folder / place
        if not file.is_file():
            raise UsageError(f"{target}: no file {file}; give the path of a .py file")
        return file.stem, file.resolve(), (folder or file.parent).resolve()
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"target {target!r}: {place!r} is neither a .py file nor a module's name; give one of them")
    root = (folder or Path()).resolve()
    if not root.is_dir():
        raise UsageError(f"--path {folder} is not a folder; give the folder that {place} is imported from")
    stem = root.joinpath(*place.split("."))
    for file in (stem.with_suffix(".py"), stem / "__init__.py"):
        if file.is_file():
            return place, file, root
    where = "in --path" if folder else "in the current folder, and without --path nowhere else"
    raise UsageError(
        f"{target}: no module {place} in {root}; it is looked up {where}: give --path DIR or the .py file's path"
    )


@contextlib.contextmanager
def _importing_from(root: Path, module_name: str) -> Iterator[None]:
    """Imports find `root` first; afterwards the search path and the list of modules are what they were."""
    path, modules = list(sys.path), dict(sys.modules)
    top = module_name.partition(".")[0]
    if top in modules:
        # It would be handed out in place of the user's.
        raise CorralError(f"{module_name}: another module of this name is loaded; rename the file or package {top}")
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        # The user's own modules go, so that another folder's of the same name can come; installed ones stay loaded.
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] not in modules:
                origin = Path(getattr(module, "__file__", None) or "")
                if root in origin.parents and "site-packages" not in origin.parts:
                    del sys.modules[name]


def _imported(target: str, name: str, file: Path) -> ModuleType:
    try:
        if "." in name or file.name == "__init__.py":
            module = importlib.import_module(name)
        else:
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # any error of foreign code
        raise CorralError(f"{target}: importing {file} failed: {_reason(error)}; {_remedy(error)}") from error
    if Path(str(module.__file__)).resolve() != file.resolve():
        raise CorralError(f"{target}: {name} came from {module.__file__}, not from {file}; rename the module")
    return module


def _model(target: str, made: object) -> nn.Module:
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise CorralError(f"{target}: found {type(made).__name__}, expected a function that returns an nn.Module")
        try:
            made = made()
        except (Exception, SystemExit) as error:  # any error of foreign code
            raise CorralError(
                f"{target}: calling it without arguments failed: {_reason(error)}; the function must build the model "
                "and load its weights by itself"
            ) from error
    if not isinstance(made, nn.Module):
        raise CorralError(f"{target}: returned {type(made).__name__}, expected an nn.Module; return the model itself")
    return made


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _remedy(error: BaseException) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "give the dotted name with --path DIR, the folder that holds the package"
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name}, or give --path DIR where it lies"
    return "mend the code; it must import without arguments or side effects"
