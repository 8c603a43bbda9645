"""Training, measuring and ending on streamed images: as on those in memory, to the bit, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from tests.pictures import write_tree

import corral
from corral.audit.data import audit_images
from corral.data import load
from corral.errors import CorralError
from corral.evaluation.certification import certify_run
from corral.training import Run, load_recipe
from corral.training.methods.base import METHODS, Method

TINY = {"model.backbone": "convnet", "model.width": 2, "model.features": 8, "threat.eps": 0.02, "batch_size": 10}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("CORRAL_WORKERS", "1")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), train=12, test=4)


@pytest.fixture
def streams(monkeypatch):
    """Whether what follows is streamed."""
    return lambda yes: monkeypatch.setenv("CORRAL_MEMORY_SHARE", "0" if yes else "1")


def state(run):
    return corral.load(run).state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("at", {"data.random_resized_crop": 0.3, "data.flip": True, "data.cutout": 3}),
        ("at", {"data.crop": 2}),
        ("corral", {"data.validation": 4, "training.select": "best", "method.batches": "neighbourhood"}),
        ("free-at", {"data.random_resized_crop": 0.3, "method.replays": 2}),
    ],
    ids=["parts", "shifts", "neighbourhoods", "replays"],
)
def test_a_run_is_the_same_to_the_bit_and_so_is_its_record(recipe, options, tree, tmp_path, streams):
    runs, records = [], []
    for yes in (False, True):
        streams(yes)
        given = TINY | {"training.warm_start.epochs": 0} | options
        runs.append(
            corral.train(recipe, data=f"{tree}?size=16", out=tmp_path / str(yes), epochs=1, progress=False, **given)
        )
        if recipe == "at":
            records.append(corral.evaluate(runs[-1], attacks=["fgsm", "pgd:steps=2"], progress=False))
    assert_same(*map(state, runs))
    assert runs[0].info.data_fingerprint == runs[1].info.data_fingerprint
    if records:
        timed = {"created", "seconds", "eval_seconds", "train_seconds", "work_seconds", "arrays_sha256", "run"}
        assert _without(records[0].model_dump(mode="json"), timed) == _without(
            records[1].model_dump(mode="json"), timed
        )


def _without(found, names):
    if isinstance(found, dict):
        return {key: _without(value, names) for key, value in found.items() if key not in names}
    return [_without(value, names) for value in found] if isinstance(found, list) else found


def test_a_resumed_run_is_the_same_to_the_bit_wherever_it_is_streamed(tree, tmp_path, streams, killed):
    given = TINY | {"data.random_resized_crop": 0.3, "data.flip": True}
    name = f"{tree}?size=16"
    streams(True)
    whole = corral.train("at", data=name, out=tmp_path / "whole", epochs=2, progress=False, **given)
    with killed():
        corral.train("at", data=name, out=tmp_path / "cut", epochs=2, progress=False, **given)
    streams(False)
    cut = corral.train("at", data=name, out=tmp_path / "cut", epochs=2, progress=False, resume=True, **given)
    assert_same(state(whole), state(cut))


def test_a_run_does_not_go_on_with_pictures_whose_margins_changed(tmp_path, streams, killed):
    """The middle squares, and the fingerprint, are as they were."""
    streams(True)
    root = tmp_path / "wide"
    for part in ("train", "val"):
        for label in "ab":
            (root / part / label).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (30, 10), (60 * index, 9, 9)).save(root / part / label / f"{index}.png")
    given = {"data": f"folder:{root}?size=10", "out": tmp_path / "run", "epochs": 2, "progress": False, **TINY}
    with killed():
        corral.train("at", **given, **{"data.random_resized_crop": 0.3})
    before = load(given["data"]).fingerprint
    changed = Image.new("RGB", (30, 10), (0, 9, 9))
    changed.putpixel((0, 0), (200, 200, 200))
    changed.save(root / "train/a/0.png")
    assert load(given["data"]).fingerprint == before
    with pytest.raises(CorralError, match="files of training images changed since the run began"):
        corral.train("at", **given, resume=True, **{"data.random_resized_crop": 0.3})


def test_random_parts_are_of_the_order_s_seed_and_differ_between_epochs(tree, begun):
    run = begun("at", **{"data.name": f"{tree}?size=16", "data.random_resized_crop": 0.2, "data.train": 20, **TINY})
    epochs = [[stored.clone() for _, stored in run._read(run.method)] for _ in range(2)]
    assert not any(torch.equal(one, other) for one, other in zip(*epochs, strict=True))
    run.order.manual_seed(run.recipe.training.seed)
    again = [stored for _, stored in run._read(run.method)]
    assert all(torch.equal(one, other) for one, other in zip(epochs[0], again, strict=True))


def test_audit_certificate_clusters_and_analyses_take_streamed_images(tree, tmp_path, streams):
    name, found = f"{tree}?size=16", []
    streams(False)
    run = corral.train("corral", data=name, out=tmp_path / "run", epochs=1, progress=False, **TINY)
    for yes in (False, True):
        streams(yes)
        clustered = corral.cluster(run, name, progress=False)
        audited = audit_images(name, n=6, seed=0, root=None, device=torch.device("cpu"))
        assert audited.images.streamed == yes
        sure = certify_run(run, attack=False, out=tmp_path / str(yes), progress=False)
        seen = corral.analyze(run, only=["silhouettes"], overwrite=True, progress=False)["silhouettes"]
        facts = (audited.data.fingerprint, sure.clean, sure.lipschitz, seen.numbers)
        found.append(({"x": audited.images.float(), **clustered.state_dict()}, facts))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_batches_are_asked_for_ahead_only_where_no_step_decides_them(begun):
    ahead = {}
    for name, options in (
        ("at", {}),
        ("nuat", {}),
        ("corral", {}),
        ("corral", {"method.batches": "neighbourhood"}),
        ("free-at", {}),
        ("clustr", {}),
    ):
        run = begun(name, **options)
        ahead[name, *options.values()] = run.method.batches_ahead
    assert [key for key, value in ahead.items() if value] == [("at",), ("nuat",), ("corral",)]

    class Own(Method):
        def batches(self):
            return iter(())

    assert not Own.batches_ahead.fget(object.__new__(Own))
    assert all(isinstance(METHODS[name].batches_ahead, property) for name in METHODS)


def test_the_imagenet_preset_trains_a_resnet_50_on_224_pixels(tmp_path, streams):
    streams(True)
    name = f"{write_tree(tmp_path / 'tree', train=3, test=2, sides=(230, 300))}?resize=256,size=224"
    given = {"preset": "imagenet", "model.width": 2, "batch_size": 3, "inner.steps": 1}
    recipe = load_recipe("at", data=name, overrides={"preset": "imagenet"})
    assert (recipe.model.backbone, recipe.model.options()) == ("resnet-imagenet", {"width": 64, "depth": 50})
    assert (recipe.threat.eps, recipe.data.random_resized_crop, recipe.data.flip) == (4 / 255, 0.08, True)
    assert recipe.method.inner.steps == 3
    run = corral.train("at", data=name, out=tmp_path / "run", epochs=1, progress=False, **given)
    assert load(name).train.streamed
    model = corral.load(run)
    assert model.backbone.features_dim == 64
    record = corral.evaluate(run, attacks=["fgsm"], progress=False)
    assert record.n == 4
    assert record.eps == pytest.approx(4 / 255)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_process_is_left_behind(tree, tmp_path):
    """Ctrl-C, which reaches all processes, and SIGTERM, which reaches the first."""
    command = [sys.executable, "-m", "corral", "train", "at", "--data", f"{tree}?size=16", "--epochs", "100000"]
    command += [f"--set={key}={value}" for key, value in TINY.items()]
    numbers = (signal.SIGINT, signal.SIGTERM)
    environment = os.environ | {"CORRAL_MEMORY_SHARE": "0", "CORRAL_WORKERS": "2", "OMP_NUM_THREADS": "1"}
    first = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / number.name)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        for number in numbers
    ]
    started = [Run(tmp_path / number.name).state_file for number in numbers]
    until(lambda: all(file.is_file() for file in started))
    for process, number in zip(first, numbers, strict=True):
        workers: list[int] = []
        while len(workers) < 2:
            workers = children(process.pid)
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, said = process.communicate(timeout=60)
        until(lambda workers=workers: not any(map(alive, workers)))
        assert process.returncode == 128 + number
        assert len([line for line in said.splitlines() if line.startswith("corral: interrupted")]) == 1
        assert "Traceback" not in said
