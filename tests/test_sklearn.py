"""`CorralClassifier`: scikit-learn's own checks, the same model as `corral.train`, its units, radii and pickles."""

import os
import pickle
import re
import runpy
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from corral.attacks import pgd
from corral.certify import head_radius, lipschitz_upper
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.sklearn import CorralClassifier
from corral.training import load_model, train

# What is not asked of it, and why; docs/interop.md shows it.
EXPECTED_FAILURES = {
    "check_methods_subset_invariance": "float32: the rounding of a batch of another size moves probabilities by 1e-7",
}
SMALL = {"model.width": 2, "model.features": 8}


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """Temporary runs, which are written with fsync, do not wait for a disk."""
    if os.path.isdir("/dev/shm"):
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def fitted(iris):
    return CorralClassifier("at", epochs=10).fit(*iris)


@pytest.fixture(scope="module")
def digits():
    part = load("digits").train
    return part.pixels[:200].numpy(), part.labels[:200].numpy()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_s_own_checks_pass():
    estimator = CorralClassifier(epochs=3, overrides={"method.inner.steps": 1})
    found = check_estimator(estimator, expected_failed_checks=EXPECTED_FAILURES)
    assert len(found) > 50
    assert {one["check_name"] for one in found if one["status"] == "xfail"} <= set(EXPECTED_FAILURES)


def test_it_trains_what_corral_train_trains(tmp_path):
    part = load("digits").train
    settings = SMALL | {"training.select": "best", "data.validation": 60, "data.train": 400}
    run = train("at", out=tmp_path / "run", epochs=2, progress=False, device="cpu", seed=3, **settings)
    expected = load_model(run)[0]
    model = CorralClassifier("at", epochs=2, overrides=settings, random_state=3).fit(part.pixels, part.labels)
    assert all(torch.equal(value, model.model_.state_dict()[name]) for name, value in expected.state_dict().items())
    with torch.no_grad():
        assert np.array_equal(model.predict(part.pixels), expected(part.float()).argmax(1).numpy())


def test_rows_are_scaled_by_the_range_of_training_and_clipped(iris, fitted):
    X, _ = iris
    low, high = X.min(0), X.max(0)
    images = fitted.images(X)
    assert images.shape == (150, 1, 1, 4)
    np.testing.assert_allclose(images.numpy()[:, 0, 0], (X - low) / (high - low), atol=1e-6)
    beyond = np.array([low - 3, high + 3])
    assert np.array_equal(fitted.predict_proba(beyond), fitted.predict_proba(np.array([low, high])))
    probabilities = fitted.predict_proba(X)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(X))
    assert fitted.score(*iris) > 0.9


def test_a_constant_and_a_huge_feature_are_scaled_too(iris):
    X, y = iris
    X = np.column_stack([X, np.full(150, 7.0), 1e300 * np.linspace(-1, 1, 150)])
    images = CorralClassifier("nominal", epochs=1).fit(X, y).images(X)[:, 0, 0]
    assert float(images[:, 4].abs().max()) == 0
    np.testing.assert_allclose(images[:, 5], np.linspace(0, 1, 150), atol=1e-6)


def test_it_is_searched_in_a_pipeline(iris):
    pipeline = make_pipeline(StandardScaler(), CorralClassifier(epochs=2))
    search = GridSearchCV(pipeline, {"corralclassifier__clusters": [1, 2]}, cv=2, error_score="raise").fit(*iris)
    model = search.best_estimator_[-1]
    assert set(search.cv_results_["param_corralclassifier__clusters"]) == {1, 2}
    assert len(model.model_.head.clusters.centroids) == 3 * search.best_params_["corralclassifier__clusters"]
    assert search.score(*iris) == np.mean(search.predict(iris[0]) == iris[1])


def test_the_example_of_a_search_runs(capsys):
    path = Path(__file__).resolve().parents[1] / "examples" / "scikit_learn_search.py"
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("best: {'clusters': ")
    clean, robust = (float(number) for number in re.findall(r"0\.\d{3}|1\.000", lines[1]))
    assert clean >= robust >= 0.5
    assert 0 <= float(lines[2].split()[-1]) <= robust


def test_a_pickle_holds_plain_arrays_and_predicts_the_same(iris, fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert np.array_equal(again.predict_proba(iris[0]), fitted.predict_proba(iris[0]))
    assert np.array_equal(again.certified_radius(iris[0]), fitted.certified_radius(iris[0]))
    assert again.recipe_ == fitted.recipe_
    content = pickle.dumps(fitted)
    assert b"torch" not in content
    assert b"corral.models" not in content
    assert not hasattr(clone(again), "model_")


def test_a_joblib_worker_gives_the_same_model(iris, fitted):
    (other,) = joblib.Parallel(n_jobs=2, prefer="threads")([joblib.delayed(clone(fitted).fit)(*iris)])
    assert np.array_equal(other.predict_proba(iris[0]), fitted.predict_proba(iris[0]))


def test_no_row_within_its_radius_changes_its_label(iris):
    X, y = iris
    model = CorralClassifier("certified", epochs=5, eps=0.1).fit(X, y)
    assert model.spec_.backbone.name == "lipschitz"
    radii, images = model.certified_radius(X), model.images(X)
    assert np.median(radii) > 0.02
    lipschitz = lipschitz_upper(model.model_, (1, 1, 4)).value
    with torch.no_grad():
        expected = head_radius(model.model_.head, model.model_.features(images), lipschitz=lipschitz)
    np.testing.assert_allclose(radii, expected)
    labels = torch.from_numpy(np.searchsorted(model.classes_, model.predict(X)))
    for index in np.argsort(radii)[[75, 110, 149]]:
        x, label = images[index : index + 1], labels[index : index + 1]
        x_adv = pgd(
            model.model_, x, label, eps=0.999 * radii[index], norm="L2", steps=20, step_size=0.25 * radii[index]
        )
        assert int(model.model_(x_adv).argmax(1)) == int(label)


def test_a_rule_without_a_certificate_is_one_line(iris):
    model = CorralClassifier(epochs=1, overrides={"method.rule": "fuzzy"}).fit(*iris)
    with pytest.raises(UsageError, match='rule "fuzzy" has no certificate'):
        model.certified_radius(iris[0])


def test_images_of_every_layout_are_the_same_images(digits):
    x, y = digits
    options = {"epochs": 1, "overrides": SMALL}
    model = CorralClassifier("at", **options).fit(x, y)
    others = {
        "rows": CorralClassifier("at", image_shape=(1, 8, 8), **options).fit(x.reshape(200, 64), y),
        "NHWC": CorralClassifier("at", **options).fit(x.transpose(0, 2, 3, 1), y),
        "without channels": CorralClassifier("at", **options).fit(x[:, 0], y),
        "floats": CorralClassifier("at", **options).fit(x / 255, y),
    }
    given = {
        "rows": x.reshape(200, 64),
        "NHWC": x.transpose(0, 2, 3, 1),
        "without channels": x[:, 0],
        "floats": x / 255,
    }
    for name, other in others.items():
        assert other.image_shape_ == (1, 8, 8)
        assert other.n_features_in_ == 64
        assert np.array_equal(other.predict_proba(given[name]), model.predict_proba(x)), name
    with pytest.raises(ValueError, match="X has images"):
        model.predict(x[:, :, :7])
    with pytest.raises(CorralError, match="divide by 255"):
        CorralClassifier("at", image_shape=(1, 8, 8), **options).fit(x.reshape(200, 64).astype(float), y)


def test_rows_where_images_were_fitted_and_the_other_way_are_refused(digits, fitted):
    x, y = digits
    model = CorralClassifier("at", epochs=1, overrides=SMALL).fit(x, y)
    with pytest.raises(ValueError, match="fitted to images"):
        model.predict(x.reshape(200, 64))
    with pytest.raises(ValueError, match="X has images"):
        fitted.predict(x)


def test_parameters_count_before_overrides_and_these_before_what_rows_get(iris):
    def resolved(**options):
        return CorralClassifier("at", **{"epochs": 1, **options}).fit(*iris).recipe_

    found = resolved(eps="8/255", overrides={"threat.eps": 0.3, "training.batch_size": 50})
    assert (found.threat.eps, found.training.batch_size, found.model.backbone) == (8 / 255, 50, "mlp")
    assert resolved(backbone="mlp", overrides={"model.hidden": [5]}).model.options() == {"hidden": [5]}
    assert resolved(overrides={"epochs": 2, "batch_size": 30}).training.batch_size == 30
    assert resolved(overrides={"epochs": 2}).training.epochs == 1
    assert resolved(random_state=4).training.seed == 4
    assert resolved(random_state=None).training.seed != resolved(random_state=None).training.seed
    with pytest.raises(UsageError, match="clusters"):
        resolved(clusters=2)  # adversarial training has none


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overrides": [3]}, r"overrides must be a mapping of recipe keys to values, found \[3\]"),
        ({"image_shape": (2, 2)}, r"image_shape must be \(C, H, W\), three whole numbers, found \(2, 2\)"),
        ({"image_shape": (1, 2, 3)}, "X has 4 features, but image_shape .* has 6"),
        ({"random_state": "a"}, "cannot be used to seed"),
        ({"recipe": "corall"}, "did you mean 'corral'"),
        ({"overrides": {"epochz": 1}}, "did you mean 'training.epochs'"),
        ({"eps": 8}, "did you mean 8/255"),
    ],
)
def test_wrong_parameters_are_one_line(iris, options, words):
    with pytest.raises((ValueError, UsageError), match=words) as caught:
        CorralClassifier(**options).fit(*iris)
    assert "\n" not in str(caught.value)


def test_labels_that_make_no_classifier_are_refused(iris):
    X, y = iris
    with pytest.raises(ValueError, match="at least two classes, found one class"):
        CorralClassifier(epochs=1).fit(X, np.zeros(150))
    with pytest.raises(ValueError, match="150 rows, but y has 149 labels"):
        CorralClassifier(epochs=1).fit(X, y[:-1])


def test_what_failed_or_predicts_nothing_is_not_fitted(iris):
    X, y = iris
    model = CorralClassifier("at", epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="one class"):
        model.fit(100 * X, np.zeros(150))
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(UsageError, match="recipe 'simclr' trains an encoder, which predicts nothing"):
        CorralClassifier("simclr", epochs=1).fit(X, y)
