"""The API reference is complete: every public name is on a page, and its documentation names every parameter."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from tests.pages.blocks import ROOT

import corral
from corral.register import register

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")}
DIRECTIVES = [found for text in PAGES.values() for found in re.findall(r"^::: (\S+)", text, re.MULTILINE)]
# Packages whose `__all__` is shown whole.
PACKAGES = ["attacks", "data", "geometry", "losses", "models", "certify", "training", "analysis"]


def found(path: str) -> object:
    """The object of a directive."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        return import_module(path)


def public() -> list[tuple[str, object]]:
    """Every public function and class by a name, and the public methods of classes."""
    things = {path: found(path) for path in DIRECTIVES if path.removeprefix("corral.") not in PACKAGES}
    for package in PACKAGES:
        module = import_module(f"corral.{package}")
        things |= {f"corral.{package}.{name}": getattr(module, name) for name in module.__all__}
    found_things = []
    for path, thing in things.items():
        if inspect.isclass(thing) and thing.__module__.startswith("corral"):
            found_things.append((path, thing))
            for name, part in vars(thing).items():
                part = part.__func__ if isinstance(part, classmethod | staticmethod) else part
                given = getattr(thing, "__dataclass_fields__", {})
                if inspect.isfunction(part) and not name.startswith("_") and name not in given:
                    found_things.append((f"{path}.{name}", part))
        elif inspect.isroutine(thing):
            found_things.append((path, thing))
    return found_things


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_shown_whole(package):
    assert f"corral.{package}" in DIRECTIVES


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_reader_of_the_source_does_not_find_under_its_name_is_shown_by_itself(package):
    """A function whose name is a module's too, and one that is made by a call, not by `def`."""
    module = import_module(f"corral.{package}")
    folder = Path(str(module.__file__)).parent
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "corral").rglob("*.py"))
    shown = {path.rpartition(".")[2] for path in DIRECTIVES}
    shown |= {name for page in PAGES.values() for name in re.findall(r"^      heading: (\w+)$", page, re.MULTILINE)}
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isroutine(thing) or inspect.isclass(thing)) or not thing.__module__.startswith("corral"):
            continue
        hidden = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
        if hidden or not re.search(rf"^(def|class) {name}\b", texts, re.MULTILINE):
            assert name in shown


def test_every_verb_and_object_of_the_package_has_its_place():
    shown = {id(found(path)) for path in DIRECTIVES}
    for name in corral.__all__:
        thing = getattr(corral, name)
        thing = getattr(thing, "__wrapped__", thing) if inspect.ismodule(thing) else thing
        if inspect.ismodule(thing):
            assert f"corral.{name}" in DIRECTIVES
        elif inspect.isroutine(thing):
            assert id(thing) in shown, name
        elif inspect.isclass(thing):
            assert id(thing) in shown | {id(other) for _, other in public()}, name
    for name in ("analysis", "attack", "figure", "data", "path_data", "protocol", "backbone", "__call__"):
        assert id(getattr(register, name)) in shown, name


def unnamed(thing: object) -> list[str]:
    """The parameters that a thing's documentation does not name; "documentation" where there is none."""
    text = inspect.getdoc(thing) or ""
    if not text:
        return ["documentation"]
    if inspect.isclass(thing):
        init = vars(thing).get("__init__")
        # Of dataclasses and pydantic's classes the fields are shown, with their types.
        if init is None or not inspect.isfunction(init) or hasattr(thing, "__dataclass_fields__"):
            return []
        text, thing = f"{text}\n{inspect.getdoc(init) or ''}", init
    parameters = [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]
    return [name for name in parameters if not re.search(rf"\b{name}\b", text)]


def test_every_public_thing_says_what_each_parameter_is():
    things = public()
    assert len(things) > 250
    assert {path: missing for path, thing in things if (missing := unnamed(thing))} == {}


def test_a_parameter_that_is_not_named_is_noticed():
    def pull(scaled, own):
        """The scaled distance."""

    assert unnamed(pull) == ["own"]
    assert unnamed(lambda x: x) == ["documentation"]


def test_every_page_is_in_the_list_of_pages():
    listed = set(re.findall(r"\]\((\w+)\.md", PAGES["index"]))
    assert listed == set(PAGES) - {"index"}


def test_every_page_of_docs_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:: |- )((?!repository)[\w/-]+\.md)$", text, re.MULTILINE))
    docs = ROOT / "docs"
    assert named == {path.relative_to(docs).as_posix() for path in Path(docs).rglob("*.md")}
