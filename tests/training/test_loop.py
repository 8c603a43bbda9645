import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corral.checkpoints import read_checkpoint
from corral.errors import CorralError, UsageError
from corral.training import Recipe, Run, Training, load_model, load_recipe, read_metrics, train
from corral.training.methods import Method
from corral.training.methods.nominal import Nominal
from corral.training.start import prepare_data

INNER = {"method.inner.steps": 2}
SMALL_NEIGHBOURHOOD = {"clusters_per_batch": 4, "samples_per_cluster": 8}
LEARNED = {"centroids": "learned", "adversary": "head", "temperature_learning_rate": 0.0, "pull": 0.1}
METHODS = {
    "nominal": ("nominal", {}),
    "at": ("at", INNER),
    "fast-at": ("fast-at", {}),
    "free-at": ("free-at", {"replays": 3, "crop": 1}),
    "trades": ("trades", INNER),
    "qtrades-published": ("qtrades-published", {}),
    "mart": ("mart", INNER),
    "ikl": ("ikl", INNER),
    "nuat": ("nuat", {"ramp": 1.0}),
    "magnet": ("magnet", SMALL_NEIGHBOURHOOD),
    "clustr": ("clustr", SMALL_NEIGHBOURHOOD),
    "clustr-qtrades": ("clustr-qtrades", SMALL_NEIGHBOURHOOD | INNER),
    "clustr-qtrades-published": ("clustr-qtrades-published", SMALL_NEIGHBOURHOOD | INNER),
    "clustr-ce-qtrades-mse": ("clustr-ce-qtrades-mse", SMALL_NEIGHBOURHOOD),
    "clustr-trades-2-published": ("clustr-trades-2-published", SMALL_NEIGHBOURHOOD | INNER),
    "clustr-adv": ("clustr-adv", SMALL_NEIGHBOURHOOD),
    "corral": ("corral", INNER | {"temperature_learning_rate": 0.02}),
    "corral neighbourhood": ("corral", INNER | SMALL_NEIGHBOURHOOD | {"batches": "neighbourhood"}),
    "corral learned": ("corral", INNER | LEARNED),
    "corral sgd, best, augmented": (
        "corral",
        INNER
        | {"optimiser": "sgd", "schedule": "cosine", "select": "best", "data.validation": 60, "crop": 1, "flip": True},
    ),
}


def tensors(folder):
    return load_file(folder / "model.safetensors")


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def interrupted(monkeypatch, name, calls):
    """Make a method of Training raise KeyboardInterrupt after it has worked `calls` times."""
    original = getattr(Training, name)
    done = []

    def counted(self, *args):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return original(self, *args)

    monkeypatch.setattr(Training, name, counted)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_with_the_bits_of_one_that_was_not(tiny, monkeypatch, method):
    recipe, overrides = METHODS[method]
    whole = tiny(recipe, "whole", **overrides)
    # Before the second epoch is saved, then twice within an epoch.
    points = [("_save", 1), ("_batch", 6), ("_batch", 2)]
    for number, (name, calls) in enumerate(points):
        with monkeypatch.context() as patch:
            interrupted(patch, name, calls)
            with pytest.raises(KeyboardInterrupt):
                tiny(recipe, "cut", resume=number > 0, **overrides)
        assert not (whole.parent / "cut" / "model.safetensors").exists()
    cut = tiny(recipe, "cut", resume=True, **overrides)
    assert_same(tensors(whole), tensors(cut))
    metrics = read_metrics(Run(cut).metrics_file)
    assert [entry["epoch"] for entry in metrics] == [1, 2, 3]
    for one, two in zip(read_metrics(Run(whole).metrics_file), metrics, strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in two.items() if "seconds" not in k
        }


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tiny, tmp_path):
    whole = tiny("corral", "whole", epochs=3, **INNER)
    slow = (
        "import sys, time; from corral.training import Training, train\n"
        "batch = Training._batch\n"
        "Training._batch = lambda self, *parts: (time.sleep(0.15), batch(self, *parts))[1]\n"
        f"train({str(whole)!r}, out={str(tmp_path / 'killed')!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", slow], env=os.environ | {"OMP_NUM_THREADS": "1"})
    state = tmp_path / "killed" / "checkpoints" / "last.safetensors"
    patience = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    time.sleep(0.2)  # some way into the next epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    killed = tiny("corral", "killed", resume=True, epochs=3, **INNER)
    assert_same(tensors(whole), tensors(killed))
    assert [entry["epoch"] for entry in read_metrics(Run(killed).metrics_file)] == [1, 2, 3, 4]


def test_a_run_killed_before_its_first_checkpoint_has_no_line_twice(tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("corral.training.state.write_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal")
    folder = Run(tiny("nominal", resume=True))
    assert [entry["epoch"] for entry in read_metrics(folder.metrics_file)] == [1, 2, 3]


def test_the_seed_decides_every_bit(tiny):
    one, again, other = (tiny("corral", f"{i}", seed=seed, **INNER) for i, seed in enumerate([3, 3, 4]))
    assert_same(tensors(one), tensors(again))
    different = [name for name, tensor in tensors(one).items() if not torch.equal(tensor, tensors(other)[name])]
    assert any(name.startswith("backbone") for name in different)
    assert "head.centroids" in different


def test_a_finished_run_is_left_as_it_is_and_its_folder_repeats_it(tiny):
    one = tiny("at", "one", **INNER)
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*") if path.is_file()}
    assert tiny("at", "one", resume=True, **INNER) == one
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match="holds a run already; continue it with --resume"):
        tiny("at", "one", **INNER)
    assert_same(tensors(one), tensors(tiny(one, "two")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eps": 0.2}, r"recipe differs: threat\.eps is 0\.1, asked for 0\.2"),
        ({"epochs": 5}, r"recipe differs: training\.epochs is 2, asked for 5"),
    ],
)
def test_another_recipe_does_not_resume_a_run(tiny, monkeypatch, overrides, message):
    with monkeypatch.context() as patch:
        interrupted(patch, "_save", 1)
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal")
    with pytest.raises(UsageError, match=message):
        tiny("nominal", resume=True, **overrides)


def test_what_is_said_about_a_recipe_does_not_keep_it_from_resuming(tiny):
    run = tiny(load_recipe("nominal").model_copy(update={"summary": "in other words", "source": "in other words"}))
    assert tiny("nominal", resume=True) == run
    assert "in other words" in Run(run).recipe_file.read_text()


def test_a_folder_that_is_no_run_is_neither_used_nor_resumed(tiny, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    for out in ("foreign", "file"):
        with pytest.raises(UsageError, match="exists and is not a run; choose another --out"):
            tiny("nominal", out)
    with pytest.raises(UsageError, match="holds no run to resume"):
        tiny("nominal", "nothing", resume=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "foreign", "precious"]


def test_auto_begins_a_run_and_continues_it_and_leaves_a_finished_one(tiny, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, "_save", 1)
        with pytest.raises(KeyboardInterrupt):
            tiny("nominal", resume="auto")
    run = tiny("nominal", resume="auto")
    assert [entry["epoch"] for entry in read_metrics(Run(run).metrics_file)] == [1, 2, 3]
    before = Run(run).model_file.stat().st_mtime_ns
    assert tiny("nominal", resume="auto") == run
    assert Run(run).model_file.stat().st_mtime_ns == before
    assert_same(tensors(run), tensors(tiny("nominal", "another")))
    with pytest.raises(UsageError, match="recipe differs"):
        tiny("nominal", resume="auto", eps=0.2)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_no_folder(tiny, tmp_path):
    folder = Run(tmp_path / "run")
    folder.path.mkdir()
    for name in (".recipe.toml.corral-abcdefgh", ".train.lock"):
        (folder.path / name).write_text("")
    tiny("nominal")
    for path in (folder.model_file, folder.state_file):
        path.unlink()
    (folder.path / ".recipe.toml.corral-abcdefgh").write_text("")
    os.utime(folder.path / ".recipe.toml.corral-abcdefgh", (0, 0))
    tiny("at", **INNER)
    assert load_recipe(folder.path).method.name == "at"
    assert [path.name for path in folder.path.glob(".*")] == []


def test_a_second_training_in_a_folder_is_refused_and_the_first_is_untouched(tiny, monkeypatch):
    save, refused = Training._save, []

    def saved(self, numbers):
        for resume in (False, True, "auto"):
            with pytest.raises(
                CorralError, match=rf"run: process {os.getpid()} on .* is at work here \(train\)"
            ) as found:
                tiny("nominal", resume=resume)
            refused.append(found)
        save(self, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_save", saved)
        run = tiny("nominal")
    assert_same(tensors(run), tensors(tiny("nominal", "another")))
    assert len(refused) == 9


def test_lines_count_the_epochs_that_were_asked_for_and_name_the_warm_start_apart(tmp_path, monkeypatch, capsys):
    settings = {"data.train": 200, "width": 4, "model.features": 16, "epochs": 2, "warm_start.epochs": 2}
    with monkeypatch.context() as patch:
        interrupted(patch, "_save", 3)
        with pytest.raises(KeyboardInterrupt):
            train("nominal", out=tmp_path / "run", **settings)
    run = train("nominal", out=tmp_path / "run", resume=True, **settings)
    begun = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert begun[:3] == ["warm start 1/2", "warm start 2/2", "epoch 1/2"]
    assert begun[3:-1] == [f"{run}: resumed after epoch 1/2", "epoch 2/2"]
    assert [entry["epoch"] for entry in read_metrics(Run(run).metrics_file)] == [1, 2, 3, 4]


@pytest.mark.parametrize("recipe", ["nominal", "at", "corral", "clustr"])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tiny, tmp_path, recipe):
    with pytest.raises(CorralError, match=r"not finite.*lower the learning rate") as caught:
        tiny(recipe, **{"training.learning_rate": 1e9, "optimiser": "sgd"})
    assert "step" in str(caught.value)
    assert "of epoch 1/2" in str(caught.value)
    assert "the checkpoint of warm start 1/1 is kept in" in str(caught.value)
    kept, metadata = read_checkpoint(Run(tmp_path / "run").state_file, kind="training")
    assert metadata["epoch"] == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values() if tensor.is_floating_point())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_gradients_that_are_not_finite_are_named_by_the_weights_that_they_spoilt(tiny, monkeypatch):
    """A finite loss whose gradient is NaN: the next step's loss is where it shows, the step before is where it was."""
    whole = Nominal.loss

    def loss(self, x, y, indices):
        found, metrics = whole(self, x, y, indices)
        root = (found - found.detach()).sqrt()  # 0, with an infinite slope
        return found + 0 * root, metrics

    monkeypatch.setattr(Nominal, "loss", loss)
    message = r"not finite at step 2 of warm start 1/1: after step 1 the weights backbone\.\S+ were not, so neither"
    with pytest.raises(CorralError, match=message):
        tiny("nominal")


def rows(images):
    return {
        (bytes(pixels.numpy().tobytes()), int(label))
        for pixels, label in zip(images.pixels, images.labels, strict=True)
    }


def test_validation_images_are_held_out_of_training_and_of_the_test_set():
    recipe = load_recipe("corral", overrides={"data.validation": 200, "data.train": 300})
    data, images, validation = prepare_data(recipe, root=None)
    assert (len(images), len(validation)) == (300, 200)
    train, held, test = rows(images), rows(validation), rows(data.test)
    assert not train & held
    assert not held & test
    assert train | held <= rows(data.train)
    again = prepare_data(load_recipe("at", overrides={"data.validation": 200, "seed": 9}), root=None)[2]
    assert torch.equal(again.pixels, validation.pixels)  # whatever the method and its seed


def test_select_best_keeps_the_weights_of_the_best_validation_epoch(tiny, monkeypatch):
    scores = iter([0.9, 0.3, 0.7, 0.5, 0.7])
    seen = []

    def validate(self, images):
        seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return {"validation_clean": 0.5, "validation_pgd": next(scores)}

    monkeypatch.setattr(Method, "validated", validate)
    folder = tiny("corral", epochs=4, select="best", **INNER, **{"data.validation": 60})
    assert_same(tensors(folder), seen[2])  # the warm epoch does not compete, the first of equals stays
    info = load_model(folder)[2]
    assert info.epochs == 3
    assert info.validation["validation_pgd"] == 0.7
    assert info.train_seconds == pytest.approx(read_metrics(Run(folder).metrics_file)[-1]["train_seconds"])


def test_the_warm_start_ends_at_its_accuracy(tiny):
    easy = {"data.validation": 60, "stop_accuracy": 0.01, "warm_start.epochs": 5}
    numbers = read_metrics(Run(tiny("clustr", **easy)).metrics_file)
    assert [entry["phase"] for entry in numbers] == ["warm start", "clustr", "clustr"]
    assert numbers[0]["validation_clean"] >= 0.01


def test_validation_measures_in_eval_mode_and_restores_the_mode():
    overrides = {"data.train": 200, "data.validation": 60, "backbone": "resnet", "width": 2}
    recipe = load_recipe("nominal", overrides=overrides).model_dump() | {"model": {"backbone": "resnet", "width": 2}}
    run = Training(Recipe.model_validate(recipe), Run(Path("unused")), torch.device("cpu"), progress=False)
    run.model.train()
    run.model.head.eval()
    flags = [module.training for module in run.model.modules()]
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    found = run.method.validated(run.validation)
    assert [module.training for module in run.model.modules()] == flags
    assert_same(before, run.model.state_dict())
    run.model.eval()
    with torch.no_grad():
        right = run.model(run.validation.float()).argmax(1) == run.validation.labels
    assert found["validation_clean"] == float(right.sum()) / len(right)
    assert found["validation_pgd"] <= found["validation_clean"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("corral", {"clusters": 40}, r"method\.clusters 40 needs as many training images of every class, class \d has"),
        ("clustr", {"rule": 21}, r"method\.rule 21 keeps more clusters than the 20"),
        ("nominal", {"data.train": 1}, "at least 2 images, found 1"),
        ("nominal", {"data.train": 5000}, "a subset of 5000 images is impossible"),
        ("nominal", {"crop": 8}, r"data\.crop 8 moves images"),
        ("nominal", {"depth": 3}, "backbone 'convnet' does not read 'depth'"),
    ],
)
def test_what_the_data_cannot_give_is_refused_before_anything_is_written(tiny, tmp_path, recipe, overrides, message):
    with pytest.raises(UsageError, match=message):
        tiny(recipe, **overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, m: t.pop("order"), "missing 'order'"),
        (lambda t, m: t.update(order=t["order"][:10].clone()), "not a checkpoint of this run"),
        (lambda t, m: t.update({"method.assignments": t["method.assignments"] + 100}), r"clusters in \[0, 20\)"),
        (lambda t, m: t.update({"foreign.tensor": torch.zeros(1)}), "missing 'foreign'"),
        (lambda t, m: m.update(epoch="x"), "not a checkpoint of this run"),
        (lambda t, m: m.update(epoch=1000), "epoch 1000 after 1 of warm start is outside the recipe's epochs"),
        (lambda t, m: m.update(data_fingerprint="x"), "the data changed since the run began"),
        (lambda t, m: m.update(seconds=1e13), "less than or equal to"),
        (lambda t, m: m.update(work_seconds=-1.0), "greater than or equal to 0"),
        (lambda t, m: m.update(device="cuda"), "resume it with --device cuda"),
    ],
)
def test_a_damaged_training_state_is_one_line(tiny, monkeypatch, tmp_path, edit, message):
    from corral.checkpoints import write_checkpoint

    with monkeypatch.context() as patch:
        interrupted(patch, "_save", 2)
        with pytest.raises(KeyboardInterrupt):
            tiny("clustr")
    state = Run(tmp_path / "run").state_file
    saved, metadata = read_checkpoint(state, kind="training")
    edit(saved, metadata)
    write_checkpoint(state, saved, metadata)
    with pytest.raises(CorralError, match=message) as caught:
        tiny("clustr", resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["garbage", '"text"', '{"loss": 1}', "[1, 2]"])
def test_metrics_that_are_no_metrics_are_one_line(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"epoch": 1}) + "\n" + content + "\n")
    with pytest.raises(CorralError, match=r"metrics\.jsonl: (not JSON lines|line 2 is not an epoch's numbers)"):
        read_metrics(path)


def test_a_number_that_could_not_be_measured_is_null_in_metrics_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(Nominal, "after_epoch", lambda _: {"undefined": float("nan"), "endless": float("inf")})
    path = tmp_path / "run"
    settings = {"epochs": 2, "data.train": 60, "model.width": 4, "model.features": 8}
    train("nominal", out=path, progress=False, device="cpu", **settings)
    text = Run(path).metrics_file.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [entry["undefined"] for entry in read_metrics(Run(path).metrics_file)] == [None, None]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_said_to_be_slow(found, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    settings = {"data.train": 40, "training.epochs": 1, "model.width": 4, "training.precision": "bfloat16"}
    train("nominal", data="digits", out=tmp_path / "run", device="cpu", **settings)
    assert ("no instructions for bfloat16" in capsys.readouterr().err) == told
