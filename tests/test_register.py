"""corral.register, and the plugins that use it."""

import os
import subprocess
import sys

import pytest

import corral
from corral.errors import UsageError
from corral.registry import PLUGINS, Registry, import_plugins


class Kind:
    registry: Registry = Registry("kind", group="corral.test-kinds")


def test_a_class_is_registered_by_its_own_name():
    @corral.register
    class Mine(Kind):
        name = "mine"

    assert Kind.registry["mine"] is Mine


def test_a_class_of_no_kind_or_without_a_name_of_its_own_is_refused():
    class Named(Kind):
        name = "named"

    class Nameless(Named):
        pass

    with pytest.raises(UsageError, match=r"Nameless needs a name of its own"):
        corral.register(Nameless)
    with pytest.raises(UsageError, match=r"takes a class of corral's.*found the class int"):
        corral.register(int)
    with pytest.raises(UsageError, match="found 7"):
        corral.register(7)


def test_an_outsider_cannot_take_a_name_of_the_package(monkeypatch):
    kinds = Registry("kind", group="corral.test-kinds")
    monkeypatch.setattr(
        kinds, "_fill", lambda: kinds._things or kinds._things.update(at=1) or kinds._places.update(at="x")
    )

    class Other:
        name = "at"

    with pytest.raises(UsageError, match="'at' is registered already"):
        kinds.add("at", Other)


def test_plugins_of_the_environment_are_read_when_a_name_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "kinds_plugin.py"
    path.write_text("from tests_kinds import kinds\nkinds.add('seven', 7)\n")
    kinds = Registry("kind", group="corral.test-kinds")
    monkeypatch.setitem(sys.modules, "tests_kinds", type(sys)("tests_kinds"))
    sys.modules["tests_kinds"].kinds = kinds
    monkeypatch.setenv(PLUGINS, f" {path} ,")
    assert kinds["seven"] == 7


def test_a_plugin_named_to_this_process_is_named_to_those_it_begins(tmp_path, monkeypatch):
    (tmp_path / "inherited_plugin.py").write_text("")
    monkeypatch.setenv(PLUGINS, "json")
    monkeypatch.chdir(tmp_path)
    import_plugins(["inherited_plugin.py", "json"])
    assert os.environ[PLUGINS] == f"json,{tmp_path.resolve()}/inherited_plugin.py"


@pytest.mark.parametrize(
    ("variable", "option", "code", "words"),
    [
        (None, "{path}", 0, "ran\n"),
        ("{path}", None, 0, "ran\n"),
        (None, "absent.py", 2, "absent.py: no such file\n"),
        (None, "corral_absent", 2, "corral: no module 'corral_absent'"),
    ],
)
def test_the_command_line_reads_plugins_first(tmp_path, variable, option, code, words):
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.stderr.write('ran\\n')\n")
    environment = {**os.environ, PLUGINS: (variable or "").format(path=path)}
    arguments = ["--plugin", option.format(path=path)] if option else []
    done = subprocess.run(
        [sys.executable, "-m", "corral", *arguments, "data"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == code
    assert words in done.stderr
