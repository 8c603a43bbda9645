"""Fewer images than an analysis needs: what cannot be computed is named with its reason, and nothing is NaN."""

import math
import re

import pytest
import torch

from corral.analysis import ANALYSES, measured_run
from corral.analysis.analyze import analyze
from corral.report.analysis.page import analysis_lines, render_analyses
from corral.training import load_model, train

QUIET = {"progress": False, "device": "cpu"}
MLP = {"model.backbone": "mlp", "model.hidden": [16], "epochs": 1, "threat.eps": 0.1}


def checked(name, found):
    """Every column of the page has a finite number or a reason."""
    values = [*found.numbers.values(), *(value for curve in found.series.values() for value in curve)]
    assert all(map(math.isfinite, values)), name
    assert not found.numbers.keys() & found.absent.keys()
    for column in ANALYSES[name].columns:
        assert (column.number in found.numbers) != (column.number in found.absent), (name, column)
    return found


@pytest.mark.parametrize("n", [1, 2, 9])
def test_every_analysis_of_fewer_images_than_classes(released, n):
    subject = measured_run(released, n=n)
    found = {name: checked(name, kind(subject)) for name, kind in ANALYSES.items() if name != "radii"}
    images = f"{n} test images are fewer than the 10 clusters, one a class: raise --n"
    assert found["match"].absent == dict.fromkeys(("clean", "pgd", "ddn"), images)
    assert found["match"].numbers == {"clusters": 10.0}
    assert found["compactness"].absent["silhouette clean"].startswith(f"{n} images in {n} of the classes: it needs 2")
    assert found["cosine"].absent == {}  # means over what there is


def test_the_page_and_the_terminal_say_what_was_not_measured_and_why(released):
    found = analyze(released, n=9, overwrite=True, **QUIET)
    words = "not measured: 9 test images are fewer than the 10 clusters, one a class: raise --n"
    assert dict(analysis_lines(found["match"]))["clean"] == words
    page = render_analyses("run", load_model(released)[2], found)
    assert words in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert analyze(released, n=9, **QUIET) == found  # read back


def test_a_class_without_training_images_has_no_centre_and_takes_no_other_ones(tmp_path):
    """Subsets below the number of classes leave some out; a linear head's centres are means of what there is."""
    run = train("nominal", data="digits", out=tmp_path / "run", **QUIET, **MLP, **{"data.train": 6})
    subject = measured_run(run, n=30)
    assert len(torch.unique(subject.train.labels)) < 10
    found = {name: checked(name, ANALYSES[name](subject)) for name in ("cosine", "features", "compactness", "norms")}
    assert set(found["features"].absent) == {"linear", "nearest", "soft", "published", "majority"}
    assert re.fullmatch(r"class \d has 0 training images, fewer than 2", found["features"].absent["linear"])
    analysed = analyze(run, n=30, **QUIET)
    assert not re.search(r"\bnan\b", render_analyses("run", load_model(run)[2], analysed), re.IGNORECASE)
