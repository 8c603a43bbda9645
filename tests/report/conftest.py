"""Synthetic evaluations: the smallest folders that `corral report` reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.documents import write_document
from corral.records import AttackResult, Curve, Environment, Record

CLASSES = ["zero", "one", "two", "three"]


def make_attack(name: str, accuracy: float, **changes: Any) -> AttackResult:
    published = name == "pgd_published"
    values: dict[str, Any] = {
        "name": name,
        "protocol": f"protocol of {name}",
        "norm": "Linf",
        "eps": 0.2,
        "steps": 20,
        "step_size": 2 / 255,
        "restarts": 10 if published else 5,
        "objective": "published_cross_entropy" if published else "cross_entropy",
        "success_rule": "max_loss_restart" if published else "any_iterate",
        "n": 400,
        "accuracy": accuracy,
        "per_class": [accuracy, accuracy, None, accuracy],
        "seconds": 1.5,
        "seed": 7,
    }
    return AttackResult(**(values | changes))


def make_record(name: str = "run", attacks: dict[str, float] | None = None, **changes: Any) -> Record:
    accuracies = {"pgd_published": 0.6, "pgd_ce": 0.4} if attacks is None else attacks
    values: dict[str, Any] = {
        "run": name,
        "recipe": f"{name}-recipe",
        "method": "corral",
        "head": "cluster",
        "rule": "soft",
        "data": "digits",
        "data_fingerprint": "d1d2d3",
        "model_fingerprint": f"model-of-{name}",
        "classes": CLASSES,
        "n": 400,
        "n_test": 400,
        "reduced": False,
        "norm": "Linf",
        "eps": 0.2,
        "clean": 0.98,
        "clean_per_class": [0.99, 0.97, None, 0.96],
        "attacks": [make_attack(attack, accuracy) for attack, accuracy in accuracies.items()],
        "curves": [Curve(attack="pgd_ce", norm="Linf", n=400, eps=[0.0, 0.1, 0.2], accuracy=[0.98, 0.7, 0.4])],
        "train_seed": 0,
        "train_seconds": 12.25,
        "eval_seed": 7,
        "eval_seconds": 3.5,
        "created": "2025-01-02T03:04:05Z",
        "environment": Environment(
            corral="0.1.0", torch="2.13.0", python="3.11.9", device="cpu (x86_64)", threads=2, platform="Linux"
        ),
    }
    return Record(**(values | changes))


def make_arrays(clusters: int = 4, **changes: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 4
    centres = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], dtype=np.float32)
    predicted = labels.copy()
    predicted[:3] = 3
    images = draw.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    return {
        "features2d": (centres[labels] + draw.normal(size=(40, 2))).astype(np.float32),
        "features_labels": labels,
        "features_predicted": predicted,
        "centroids2d": centres[np.arange(clusters) % 4],
        "centroids_classes": np.arange(clusters) % 4,
        "projection": np.array("PCA of test features, 71% of the variance"),
        "images": images,
        "images_adversarial": 255 - images,
        "images_labels": np.arange(4),
        "images_predicted": np.arange(4),
        "images_adversarial_predicted": np.array([0, 2, 2, 1]),
    } | changes


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder from a record and arrays; returns the folder."""

    def write(record: Record, arrays: dict[str, Any] | None = None, folder: str | None = None) -> Path:
        run = tmp_path / (folder or record.run.replace("/", "_"))
        write_document(record, run / "records" / "quick.json")
        if arrays is None:
            arrays = make_arrays(clusters=4 if record.head == "cluster" else 0)
        np.savez(run / "records" / "quick.npz", **arrays)
        return run

    return write


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def attack() -> Callable[..., AttackResult]:
    return make_attack


@pytest.fixture
def arrays() -> Callable[..., dict[str, Any]]:
    return make_arrays
