"""What a name stands for: registered, of an installed package, or a target; and nothing runs for a document."""

import sys
from importlib.metadata import EntryPoint

import pytest

from corral import registry as module
from corral.errors import CorralError, UsageError
from corral.registry import Registry, find_target, import_plugin, is_target, lasting


def number(thing: object) -> int:
    if not isinstance(thing, int):
        raise TypeError(f"expected a whole number, found {type(thing).__name__}")
    return thing


@pytest.fixture
def numbers():
    return Registry("number", group="corral.test-numbers", check=number)


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("seven = 7\nword = 'seven'\n")
    return path


def test_what_is_registered_is_found_in_the_order_of_registering(numbers):
    numbers.add("two", 2)
    numbers.add("one", 1)
    assert numbers.names() == ("two", "one")
    assert (numbers["one"], numbers.find("two")) == (1, 2)
    assert "one" in numbers
    assert "three" not in numbers


def test_a_second_name_stands_for_the_first_and_is_nobody_else_s(numbers):
    numbers.add("two", 2)
    numbers.alias("pair", "two")
    assert numbers.find("pair") == numbers["two"] == 2
    assert "pair" in numbers
    assert numbers.names() == ("two",)
    with pytest.raises(UsageError, match=r"number 'pair' is 'two' already: give \S+ another name"):
        numbers.add("pair", 22)


def test_an_earlier_name_warns_until_somebody_registers_it(numbers):
    numbers.add("two", 2)
    numbers.alias("zwei", "two", earlier=True)
    with pytest.warns(FutureWarning, match="number 'zwei' is called 'two' now"):
        assert numbers.find("zwei") == 2
    numbers.add("zwei", 22)
    assert numbers.find("zwei") == 22
    assert numbers.find("two") == 2
    assert numbers.names() == ("two", "zwei")


def test_an_unknown_name_says_what_is_near_and_what_is_known(numbers):
    numbers.add("seven", 7)
    with pytest.raises(UsageError, match=r"unknown number 'sevn'; did you mean 'seven'.*known: seven"):
        numbers.find("sevn")


def test_a_name_that_another_thing_has_is_refused(numbers):
    def first(): ...

    def second(): ...

    things = Registry("thing", group="corral.test-things")
    things.add("it", first)
    things.add("it", first)
    with pytest.raises(UsageError, match=r"'it' is registered already, by .*first"):
        things.add("it", second)


@pytest.mark.parametrize("name", ["", "a:b"])
def test_a_name_has_no_colon(numbers, name):
    with pytest.raises(UsageError, match="without a colon"):
        numbers.add(name, 1)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.py:b", True),
        ("/x y/a.py:b", True),
        ("a.b:c", True),
        ("a:c", True),
        ("folder:/some/where", False),
        ("npz:data.npz", False),
        ("at", False),
        ("a.py:", False),
        (":b", False),
        ("x/y:b", False),
    ],
)
def test_what_reads_as_a_target(name, target):
    assert is_target(name) == target


def test_a_file_and_a_module_are_targets(numbers, plugin):
    assert numbers.find(f"{plugin}:seven") == 7
    assert Registry("limit", group="x", check=number).find("sys:maxsize") == sys.maxsize


def test_a_file_is_run_once(numbers, tmp_path):
    log, path = tmp_path / "log", tmp_path / "counts.py"
    path.write_text(f"with open({str(log)!r}, 'a') as file:\n    file.write('x')\nseven = 7\n")
    numbers.find(f"{path}:seven")
    numbers.find(f"{path}:seven")
    assert log.read_text() == "x"


def test_a_document_runs_no_code_that_the_user_has_not_named(numbers, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "evil.py"
    path.write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\nseven = 7\n")
    with pytest.raises(UsageError, match=r"which a document does not make it run.*--plugin"):
        numbers.find(f"{path}:seven", code=False)
    assert not ran.exists()
    import_plugin(str(path))
    assert numbers.find(f"{path}:seven", code=False) == 7


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("{plugin}:sevn", UsageError, "has no 'sevn'; did you mean 'seven'"),
        ("{plugin}:word", UsageError, "is no number: expected a whole number, found str"),
        ("{folder}/absent.py:seven", UsageError, "absent.py: no such file"),
        ("corral_absent:seven", UsageError, "no module 'corral_absent'"),
        ("{folder}/broken.py:seven", CorralError, r"broken.py: failed when it was imported \(ZeroDivisionError"),
        ("{folder}/syntax.py:seven", CorralError, r"syntax.py: failed when it was imported \(SyntaxError"),
        ("{folder}/needs.py:seven", CorralError, "needs the module 'corral_absent'"),
    ],
)
def test_a_bad_target_is_one_line(numbers, plugin, tmp_path, target, error, words):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def\n")
    (tmp_path / "needs.py").write_text("import corral_absent\n")
    with pytest.raises(error, match=words) as found:
        numbers.find(target.format(plugin=plugin, folder=tmp_path))
    assert "\n" not in str(found.value)


def test_a_file_that_failed_is_tried_again(numbers, tmp_path):
    path = tmp_path / "mended.py"
    path.write_text("1 / 0\n")
    with pytest.raises(CorralError):
        numbers.find(f"{path}:seven")
    path.write_text("seven = 7  # mended\n")
    assert numbers.find(f"{path}:seven") == 7


def test_installed_packages_declare_things_by_entry_points(monkeypatch, numbers, capsys):
    entries = [
        EntryPoint("largest", "sys:maxsize", "corral.test-numbers"),
        EntryPoint("absent", "corral_absent:x", "corral.test-numbers"),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: [e for e in entries if e.group == group])
    assert numbers.find("largest") == sys.maxsize
    assert numbers.names() == ("largest",)
    assert "number 'absent' of corral_absent:x cannot be imported" in capsys.readouterr().err


def test_a_file_is_written_down_by_its_whole_path(monkeypatch, plugin):
    monkeypatch.chdir(plugin.parent)
    assert lasting("mine.py:seven") == f"{plugin.resolve()}:seven"
    assert lasting("a.b:c") == "a.b:c"
    assert find_target("mine.py:seven", "number") == 7
    assert find_target(lasting("mine.py:seven"), "number", code=False) == 7
