"""The suite itself: it needs nothing outside the repository, and its markers say what costs."""

import re
from types import SimpleNamespace

import pytest
from tests.conftest import pytest_collection_modifyitems
from tests.fast import ROOT

OUTSIDE = re.compile(r"\.\./shared|/work/|/home/|expanduser|Path\.home|\.cache/")
# Where the folder of real images is named: for the tests that are marked real_data.
NAMES_IT = {"tests/conftest.py", "tests/test_suite.py", "tests/test_docs.py"}


def test_only_the_fixture_of_real_images_names_a_folder_outside_the_repository():
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if OUTSIDE.search(path.read_text(encoding="utf-8"))
    }
    assert found <= NAMES_IT


def item(fixtures, marker):
    return SimpleNamespace(nodeid="t.py::t", fixturenames=fixtures, get_closest_marker=lambda name: marker)


def test_a_test_that_reads_real_images_must_say_so():
    pytest_collection_modifyitems([item(["shared"], "real_data"), item([], None)])
    with pytest.raises(pytest.UsageError, match=r"t\.py::t reads real images: mark it @pytest\.mark\.real_data"):
        pytest_collection_modifyitems([item(["shared"], None)])


def test_a_test_sees_no_data_set_of_the_machine():
    from corral.data import load
    from corral.errors import CorralError

    with pytest.raises(CorralError):
        load("mnist")


EXTRAS = ["pyautoattack", "foolbox", "kornia", "onnx", "onnxscript", "onnxruntime", "orthogonium", "wandb", "mlflow"]


@pytest.mark.parametrize("package", EXTRAS)
def test_no_module_of_tests_imports_an_extra_when_it_is_collected(package):
    at_the_top = re.compile(rf"^(from|import) {package}\b", re.MULTILINE)
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if at_the_top.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
