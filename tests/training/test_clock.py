"""Seconds of training: of the wall clock, and CPU seconds, which do not count waiting or other programs."""

import time
from itertools import pairwise

import pytest
import torch

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.training import Run, Training, load_model, read_metrics, train
from corral.training.clock import Clock

WAIT = 0.25


def burn(seconds):
    """Use so much CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))


def test_waiting_counts_on_the_wall_and_work_on_both():
    clock = Clock(torch.device("cpu"))
    with clock.running():
        time.sleep(WAIT)
    assert clock.wall >= WAIT
    assert clock.work < WAIT / 5
    before = clock.wall, clock.work
    with clock.running():
        burn(WAIT)
    assert WAIT <= clock.work - before[1] < 1.2 * WAIT
    assert clock.wall - before[0] >= 0.9 * WAIT
    assert clock.kind == "cpu"


def test_what_raises_and_what_lies_between_blocks_does_not_count():
    clock = Clock(torch.device("cpu"))

    def cut_short():
        with clock.running():
            burn(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    burn(0.02)
    assert (clock.wall, clock.work) == (0.0, 0.0)


def test_work_is_that_of_all_threads():
    from threading import Thread

    clock = Clock(torch.device("cpu"))
    with clock.running():
        # Each thread's own CPU time: the process's is the sum.
        def spin(until):
            while time.thread_time() < until:
                sum(range(1000))

        threads = [Thread(target=spin, args=(0.1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert clock.work >= 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_work_is_the_wall_clock_between_synchronisations():
    clock = Clock(torch.device("cuda"))
    x = torch.randn(4000, 4000, device="cuda")
    with clock.running():
        for _ in range(200):
            x = torch.nn.functional.normalize(x @ x)
    assert clock.kind == "device"
    assert clock.work == clock.wall > 0.01


def slept(monkeypatch):
    """Lets every batch wait."""
    batch = Training._batch

    def waiting(self, *parts):
        time.sleep(WAIT / 4)  # four batches an epoch
        return batch(self, *parts)

    monkeypatch.setattr(Training, "_batch", waiting)


def test_a_sleep_in_an_epoch_lengthens_the_wall_clock_and_not_the_work(tiny, monkeypatch):
    tiny("clustr", "first")  # what the process does once, such as compiling, is over
    quick = load_model(tiny("clustr", "quick"))[2]
    slept(monkeypatch)
    slow = load_model(tiny("clustr", "slow"))[2]
    epochs = 3  # one of them the warm start's
    assert slow.train_seconds >= epochs * WAIT
    # A wait costs next to no CPU time; a factor leaves room for a cold cache.
    assert slow.work_seconds < quick.work_seconds * 2 + epochs * WAIT / 10
    assert (quick.work_clock, slow.work_clock) == ("cpu", "cpu")


def test_work_is_the_process_s_time_but_for_validation_and_saving(tiny, monkeypatch):
    more = {"data.train": 600, "training.epochs": 4}
    tiny("corral", "first")
    started = time.process_time()
    info = load_model(tiny("corral", **more))[2]
    whole = time.process_time() - started
    assert 0.5 * whole < info.work_seconds <= whole


def test_the_seconds_of_a_resumed_run_are_the_sum_over_its_pieces(tiny, monkeypatch):
    pieces, kept = [], Training._save

    def counted(self, numbers):
        kept(self, numbers)
        pieces.append((self.clock.wall, self.clock.work))
        raise KeyboardInterrupt

    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save", counted)
            with pytest.raises(KeyboardInterrupt):
                tiny("clustr", resume=number > 0)
    folder = Run(tiny("clustr", resume=True))
    info = load_model(folder.path)[2]
    assert pieces == sorted(pieces)
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(pieces))
    assert (info.train_seconds, info.work_seconds) == pieces[-1]
    metrics = read_metrics(folder.metrics_file)
    # The warm start is among them, and so is the fit that the method begins with, after the warm epoch's line.
    logged = [entry["work_seconds"] for entry in metrics]
    assert metrics[0]["phase"] == "warm start"
    assert 0 < logged[0] < pieces[0][1]
    assert logged[1:] == [work for _, work in pieces[1:]]
    assert info.train_seconds > sum(entry["epoch_seconds"] for entry in metrics)


def test_a_run_that_goes_on_from_an_older_checkpoint_does_not_know_its_work(tiny, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal")
    state = Run(tmp_path / "run").state_file
    saved, metadata = read_checkpoint(state, kind="training")
    older = {key: value for key, value in metadata.items() if key not in ("work_seconds", "accuracies")}
    write_checkpoint(state, saved, older)
    info = load_model(tiny("nominal", resume=True))[2]
    assert (info.work_seconds, info.work_clock) == (None, None)
    assert info.train_seconds == metadata["seconds"]


def test_a_model_of_an_earlier_version_still_reads(tmp_path):
    folder = Run(train("nominal", out=tmp_path / "run", progress=False, **{"data.train": 60, "epochs": 1}))
    tensors, metadata = read_checkpoint(folder.model_file, kind="model")
    for key in ("work_seconds", "work_clock", "ending"):
        del metadata["info"][key]
    write_checkpoint(folder.model_file, tensors, metadata)
    info = load_model(folder.path)[2]
    assert (info.work_seconds, info.work_clock, info.ending) == (None, None, None)
