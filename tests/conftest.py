"""What every test gets: no data but the repository's, and a skip where an extra is missing."""

import re
import signal
import sys
from pathlib import Path

import pytest

from corral.errors import CorralError

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"

# What each extra of corral brings, by the word in `pip install 'corral[WORD]'`.
EXTRAS = {
    "contrastive": "kornia",
    "onnx": "onnxscript",
    "lipschitz": "orthogonium",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "hub": "huggingface_hub",
}

# What was started by `nohup` or in the background ignores these, and so would the commands that tests interrupt.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    """Refuse a test that reads the real images and does not say so."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()) and item.get_closest_marker("real_data") is None:
            raise pytest.UsageError(f"{item.nodeid} reads real images: mark it @pytest.mark.real_data")


@pytest.fixture(scope="session")
def shared():
    """The folder of real images, outside the repository; a test that asks for it is marked real_data."""
    if not (SHARED / "unpack.py").exists():
        pytest.skip("the real images of ../shared/data are not here")
    return SHARED


@pytest.fixture(scope="session")
def no_data(tmp_path_factory):
    """An empty folder."""
    return tmp_path_factory.mktemp("no_data")


@pytest.fixture(autouse=True)
def own_data(no_data, monkeypatch):
    """Whatever data sets this machine has, a test sees none that it did not make."""
    monkeypatch.setenv("CORRAL_DATA", str(no_data))


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, stdout, stderr."""
    from corral import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["corral", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return exited.value.code or 0, out, err

    return run


@pytest.fixture(autouse=True)
def traced():
    """The public AutoAttack's checks end with `sys.settrace(None)`: what follows would count as not covered."""
    before = sys.gettrace()
    yield
    if sys.gettrace() is not before:
        sys.settrace(before)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that needs an extra that is not installed is skipped, by what the library itself says of it."""
    try:
        return (yield)
    except CorralError as error:
        skip_without_extra(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """The same for a fixture."""
    try:
        return (yield)
    except CorralError as error:
        skip_without_extra(error)
        raise


def skip_without_extra(error):
    """Skip where the error names an extra whose package cannot be imported."""
    named = re.search(r"pip install 'corral\[(\w+)\]'", str(error))
    if named is not None:
        pytest.importorskip(EXTRAS[named[1]], reason=str(error), exc_type=ImportError)
