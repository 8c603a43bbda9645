"""Loggers: what each gets, what a resumed run does, and that nothing is imported that was not asked for."""

import importlib
import importlib.util
import sys
import types
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from corral.cli import app
from corral.errors import CorralError, UsageError
from corral.registry import import_plugin
from corral.training import Run, read_metrics
from corral.training.loggers import LOGGERS, LoggerKind

needs_tensorboard = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")


def numbers_of(folder):
    """What metrics.jsonl holds of every epoch, as loggers get it."""
    return [
        {name: value for name, value in entry.items() if name not in ("epoch", "phase", "converged")}
        for entry in read_metrics(Run(folder).metrics_file)
    ]


def test_a_function_gets_every_epochs_numbers(tiny):
    seen = []
    folder = tiny("nominal", loggers=[lambda epoch, numbers: seen.append((epoch, numbers))])
    assert seen == list(enumerate(numbers_of(folder), start=1))
    assert all(isinstance(value, float) for _, numbers in seen for value in numbers.values())
    assert not (folder / "tensorboard").exists()


def test_a_function_in_a_file_is_a_logger(tiny, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("seen = []\n\n\ndef log(epoch, numbers):\n    seen.append((epoch, numbers['loss']))\n")
    folder = tiny("nominal", loggers=[f"{source}:log"])
    module = import_plugin(str(source))
    assert module.seen == [(epoch, numbers["loss"]) for epoch, numbers in enumerate(numbers_of(folder), start=1)]


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        (["tensorbord"], "unknown logger 'tensorbord'; did you mean 'tensorboard'"),
        ([3], r"loggers: it should be a function of \(epoch, numbers\), found int"),
        (["wandb"], r"logger 'wandb' needs the package wandb: pip install 'corral\[wandb\]'; metrics.jsonl has"),
        (["mlflow"], r"pip install 'corral\[mlflow\]'"),
        (["tensorboard"], r"pip install 'corral\[tensorboard\]'"),
    ],
)
def test_what_cannot_log_is_refused_before_anything_is_written(tiny, tmp_path, monkeypatch, loggers, message):
    for name in ("wandb", "mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(UsageError, match=message):
        tiny("nominal", loggers=loggers)
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_a_run_that_did_not_ask_for_it_has_its_metrics(tiny, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder = tiny("nominal")
    assert not (folder / "tensorboard").exists()
    assert len(read_metrics(Run(folder).metrics_file)) == 3
    assert capfd.readouterr().err == ""


def events(folder):
    """TensorBoard's own reading of a run: {name: {epoch: value}}."""
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


@needs_tensorboard
def test_tensorboard_reads_what_metrics_hold(tiny):
    folder = tiny("nominal")
    found, expected = events(folder), numbers_of(folder)
    assert found.keys() == expected[0].keys()
    for name, series in found.items():
        assert series == [
            (epoch, pytest.approx(numbers[name], rel=1e-6)) for epoch, numbers in enumerate(expected, start=1)
        ]


@needs_tensorboard
def test_a_resumed_run_purges_what_tensorboard_has_beyond_its_checkpoint(tiny, tmp_path, monkeypatch):
    """Killed between logging an epoch twice: here the event file says more than the checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    from corral.training import Training

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal", epochs=1)
    assert [step for step, _ in events(tmp_path / "run")["loss"]] == [1, 2]
    with SummaryWriter(tmp_path / "run" / "tensorboard", filename_suffix=".orphan") as writer:
        writer.add_scalar("loss", 99.0, 2)
        writer.add_scalar("loss", 99.0, 3)
    Run(tmp_path / "run").state_file.unlink()  # so it begins anew, at epoch 1
    tiny("nominal", epochs=1, resume=True)
    series = events(tmp_path / "run")["loss"]
    assert [step for step, _ in series] == [1, 2]
    assert all(value < 99 for _, value in series)


@needs_tensorboard
@pytest.mark.parametrize("calls", [1, 4])
def test_a_full_disk_is_one_line_and_no_trace(tiny, monkeypatch, capfd, calls):
    """At the writer's first record, in its constructor, or in an epoch's."""
    module = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    write, seen = module.RecordWriter.write, []

    def full(self, data):
        seen.append(1)
        if len(seen) >= calls:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(module.RecordWriter, "write", full)
    with pytest.raises(CorralError, match=r"tensorboard: cannot be written \(No space left on device\); free some"):
        tiny("nominal")
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_the_training_is_not_taken_for_the_boards(tiny, monkeypatch):
    monkeypatch.setattr("corral.training.loop.Training._epoch", lambda *_: (_ for _ in ()).throw(OSError(5, "gone")))
    with pytest.raises(OSError, match="gone"):
        tiny("nominal")


class FakeWandb(types.ModuleType):
    """The calls of wandb 0.17 to 0.31 that the logger makes, with their signatures."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []

    def init(self, *, project=None, name=None, dir=None, config=None, id=None, resume=None):
        run = types.SimpleNamespace(id=id or f"id{len(self.runs)}", asked=(project, name, dir, id, resume))
        run.config, run.logged, run.ended = config, [], []
        run.log = lambda data, step=None: run.logged.append((step, data))
        run.finish = lambda exit_code=None: run.ended.append(exit_code)
        self.runs.append(run)
        return run


class FakeMlflow(types.ModuleType):
    """The calls of mlflow 2.9 to 3.17 that the logger makes, with their signatures."""

    def __init__(self):
        super().__init__("mlflow")
        self.started, self.params, self.logged, self.ended = [], [], [], []

    def start_run(self, run_id=None, run_name=None):
        self.started.append((run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "abc"))

    def log_params(self, params):
        self.params.append(params)

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, metrics))

    def end_run(self, status="FINISHED"):
        self.ended.append(status)


@contextmanager
def stopped_after_the_first_epoch():
    def stop(epoch, numbers):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        yield stop


def test_wandb_gets_the_recipe_and_the_numbers_and_goes_on_in_the_same_run(tiny, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with stopped_after_the_first_epoch() as stop:
        tiny("nominal", loggers=["wandb", stop])
    folder = tiny("nominal", loggers=["wandb"], resume=True)
    first, second = fake.runs
    assert first.asked == ("corral", "run", str(tmp_path / "run"), None, None)
    assert second.asked == ("corral", "run", str(tmp_path / "run"), "id0", "allow")
    assert first.logged + second.logged == list(enumerate(numbers_of(folder), start=1))
    assert (first.ended, second.ended) == ([1], [None])
    assert first.config["training"]["epochs"] == 2


def test_a_new_run_in_the_place_of_one_that_never_saved_is_new_to_wandb(tiny, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with monkeypatch.context() as patch:
        patch.setattr("corral.training.loop.Training._epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal", loggers=["wandb"])
    tiny("nominal", loggers=["wandb"], resume=True)
    assert [run.asked[-2:] for run in fake.runs] == [(None, None), (None, None)]
    assert fake.runs[0].asked[0] is None  # wandb reads the variable


def test_mlflow_gets_flat_settings_once_and_goes_on_in_the_same_run(tiny, tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with stopped_after_the_first_epoch() as stop:
        tiny("nominal", loggers=["mlflow", stop])
    folder = tiny("nominal", loggers=["mlflow"], resume=True)
    assert fake.started == [(None, "run"), ("abc", None)]
    assert fake.logged == list(enumerate(numbers_of(folder), start=1))
    assert fake.ended == ["FAILED", "FINISHED"]
    assert len(fake.params) == 1
    assert fake.params[0]["training.epochs"] == 2
    assert fake.params[0]["method.name"] == "nominal"


def test_a_damaged_id_is_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    with stopped_after_the_first_epoch() as stop:
        tiny("nominal", loggers=["wandb", stop])
    (tmp_path / "run" / "wandb.json").write_text("[]")
    with pytest.raises(CorralError, match=r"wandb\.json: does not hold this run's id; delete it"):
        tiny("nominal", loggers=["wandb"], resume=True)


def test_the_names_are_open_to_others(tiny, monkeypatch):
    opened = []

    @contextmanager
    def mine(run):
        opened.append((run.folder.name, run.first_epoch))
        yield lambda epoch, numbers: opened.append(epoch)
        opened.append("closed")

    assert LOGGERS.names() == ("tensorboard", "wandb", "mlflow")
    monkeypatch.setitem(LOGGERS._things, "mine", LoggerKind(mine))
    tiny("nominal", loggers=["mine"])
    assert opened == [("run", 1), 1, 2, 3, "closed"]


def test_the_command_line_names_every_logger_and_passes_them_on(tmp_path):
    """In one process, so that the function's module can be looked at."""
    from corral.cli.train import train as command

    shown = command.__annotations__["log"].__metadata__[0].help
    assert all(name in shown for name in LOGGERS.names())
    source = tmp_path / "heard.py"
    source.write_text("seen = []\n\n\ndef log(epoch, numbers):\n    seen.append(epoch)\n")
    settings = ["data.train=60", "width=4", "model.features=8", "warm_start.epochs=0"]
    options = ["--out", str(tmp_path / "run"), "--epochs", "2", "--log", f"{source}:log", "--quiet"]
    options += [word for setting in settings for word in ("--set", setting)]
    assert CliRunner().invoke(app, ["train", "nominal", *options]).exit_code == 0
    module = next(module for name, module in sys.modules.items() if name.startswith("corral_plugin_heard_"))
    assert module.seen == [1, 2]
    assert not (tmp_path / "run" / "tensorboard").exists()
