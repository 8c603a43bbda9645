"""Every file of examples/ runs as it stands there; README's blocks are in tests/pages."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import corral
from corral.attacks.autoattack import standard_attacks
from corral.models.backbones import BACKBONES
from corral.training.methods import METHODS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = {"epochs": 1, "data.train": 100, "model.width": 4, "model.features": 8, "progress": False}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Runs a file of examples/ in an empty folder, as Python runs it; what it registers is forgotten afterwards."""
    METHODS.names()  # filled before it is copied
    monkeypatch.setattr(METHODS, "_things", dict(METHODS._things))
    monkeypatch.setattr(METHODS, "_places", dict(METHODS._places))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    BACKBONES._held.clear()
    sys.modules.pop("own_loop", None)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_says_how_it_is_run_and_is_tested(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text.split('"""')[1]
    assert any(f'"{path.stem}' in test.read_text() for test in Path(__file__).parent.glob("test_*.py"))


def test_a_network_of_timm_s_is_audited(example, capsys, monkeypatch):
    monkeypatch.setattr("corral.audit.audit.standard_attacks", lambda *about: standard_attacks(*about)[:1])
    example("audit_timm")["main"](epochs=1, n=10, minutes=0.5)
    line = capsys.readouterr().out
    assert re.search(r"^clean [01]\.\d+, under AutoAttack at Linf 0\.1 0\.\d+, verdict: \w+$", line)


def test_photos_of_all_sizes_are_trained_on_with_a_network_of_one_s_own(example, tmp_path, capsys):
    random = np.random.default_rng(0)
    for k in range(20):
        folder = tmp_path / "photos" / ("dark", "light")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (40 + k, 70 - k, 3), dtype=np.uint8) + np.uint8(127 * (k % 2))
        Image.fromarray(pixels).save(folder / f"{k}.png")
    run = example("train_photos")["main"](str(tmp_path / "photos"), size=32, epochs=1, batch_size=8, progress=False)
    assert run.info.classes == ["dark", "light"]
    assert run.model.features_dim == 32
    assert run.recipe.threat.eps == 4 / 255
    assert (tmp_path / "photos.html").is_file()
    assert "Record(photos: corral on folder:" in capsys.readouterr().out


def test_a_trained_network_is_clustered_and_certified(example, tmp_path, capsys):
    example("cluster_pretrained")["main"](n=50)
    assert re.search(r"Certificate\(.*, certified \d+\.\d% at 0\.05, .*, 0 broken\)", capsys.readouterr().out)
    loaded = example("cluster_pretrained")["pretrained"]()
    assert corral.Classifier.load(tmp_path / "clusters.safetensors", backbone=loaded).num_classes == 10


def test_a_loop_of_one_s_own_is_run(example):
    model = example("own_loop")["trained"](epochs=1)
    record = corral.evaluate(model, "digits", threat=("Linf", 0.1), attacks=["fgsm"], n=100, progress=False)
    assert (record.rule, record.clean > 0.5, model.training) == ("soft", True, False)


@pytest.mark.filterwarnings("ignore")  # of lightning's own
def test_a_lightning_module_is_trained(example, capsys, monkeypatch):
    pytest.importorskip("lightning", reason="lightning is not installed")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    main, modes = example("lightning_module")["main"], []
    loss = main.__globals__["batch_loss"]

    def seen(model, *batch, **options):
        modes.append(model.training)
        return loss(model, *batch, **options)

    monkeypatch.setitem(main.__globals__, "batch_loss", seen)
    main(epochs=2, n=20, limit_train_batches=3, **quiet)
    assert modes == [True] * 6
    assert "Record(Classifier: digits, 20 of 500 images" in capsys.readouterr().out


def test_a_method_of_one_s_own_is_trained_and_reported(example, tmp_path, capsys):
    example("own_method")["main"](n=20, **SMALL)
    assert "Record(logit-pairing: logit-pairing on digits" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()
