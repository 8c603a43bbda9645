"""Exported classifiers in ONNX Runtime, and classifiers within skorch and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator
from tests.models.test_export import HEADS, classifier
from tests.test_sklearn import EXPECTED_FAILURES, in_memory  # noqa: F401

from corral.data import load
from corral.models import HEADS as REGISTERED
from corral.models import FeaturesHead
from corral.models.export import export_classifier
from corral.sklearn import CorralClassifier

pytestmark = pytest.mark.filterwarnings("ignore")


def run_onnx(onnxruntime, path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def apart(model, found, x):
    """The largest difference of logits, relative to the largest logit."""
    with torch.no_grad():
        expected = model(x).numpy()
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()
    return float(np.abs(found - expected).max() / max(1, np.abs(expected).max()))


def test_onnx_runtime_gives_the_logits_of_every_head_and_rule(interop, images, ours, tmp_path):
    rules = "linear; clusters soft, nearest, 3 nearest, fuzzy, one a class; cosine nearest and soft; an encoder"
    what = f"exported classifiers of every head and rule ({rules}), `corral` and `at`"
    row, runtime, *_ = interop("ONNX Runtime", "onnxruntime", what, "onnxruntime", "onnx", "onnxscript")
    models = {f"head-{number}": classifier("convnet", head) for number, head in enumerate(HEADS)} | ours
    encoder = classifier("convnet", "linear")
    models["encoder"] = encoder.with_head(FeaturesHead(encoder.features_dim)).eval()
    assert {model.head.name for model in models.values()} == set(REGISTERED)
    worst = 0.0
    for name, model in models.items():
        path = export_classifier(model, tmp_path / f"{name}.onnx")
        for count in (1, 7, 100):
            worst = max(worst, apart(model, run_onnx(runtime, path, images[0][:count]), images[0][:count]))
    assert worst <= 1e-5
    row.result = f"logits equal to {worst:.0e} of the largest, same labels"


def test_skorch_trains_a_classifier(interop, ours):
    what = "`NeuralNetClassifier` trains a linear-head `Classifier` on digits, then takes a trained `corral`"
    row, skorch = interop("skorch", "skorch", what, "skorch")
    digits = load("digits")
    x, y = digits.train.float()[:600].numpy(), digits.train.labels[:600].numpy()
    test, labels = digits.test.float().numpy(), digits.test.labels.numpy()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = classifier("convnet", "linear")
        module.head = type(module.head)(module.features_dim, 10)
        settings = {"criterion": torch.nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "lr": 1e-2, "verbose": 0}
        net = skorch.NeuralNetClassifier(module, max_epochs=8, batch_size=60, **settings).fit(x, y)
    accuracy = float((net.predict(test) == labels).mean())
    assert accuracy > 0.7
    trained = skorch.NeuralNetClassifier(ours["corral"], classes=list(range(10)), **settings).initialize()
    with torch.no_grad():
        expected = ours["corral"](torch.from_numpy(test)).softmax(1).numpy()
    np.testing.assert_allclose(trained.predict_proba(test), expected, atol=1e-6)
    row.result = (
        f"accuracy {100 * accuracy:.1f}% after 8 epochs; the trained one's probabilities are the softmax of ours"
    )


def test_scikit_learn_s_checks(interop):
    row, _ = interop("scikit-learn", "scikit-learn", "`check_estimator` of `CorralClassifier`, with pandas", "pandas")
    found = check_estimator(CorralClassifier(epochs=3), expected_failed_checks=EXPECTED_FAILURES)
    statuses = [one["status"] for one in found]
    named = {one["check_name"] for one in found if one["status"] == "xfail"}
    assert named <= set(EXPECTED_FAILURES)
    skipped = sorted({one["check_name"] for one in found if one["status"] == "skipped"})
    row.result = f"{statuses.count('passed')} of {len(found)} passed; expected to fail: {', '.join(sorted(named)) or 'none'}; skipped: {', '.join(skipped) or 'none'}"  # noqa: E501
