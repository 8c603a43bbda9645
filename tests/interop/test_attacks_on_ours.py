"""Other libraries' attacks take our classifiers as they are; at equal settings they find what ours find."""

import numpy as np
import pytest
import torch
from tests.interop.shared import EPS, percent, robust

from corral.attacks import autoattack, pgd

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, STEP = 20, EPS / 8
PGD = f"PGD-{STEPS} from the image, step eps/8, Linf {EPS}, on `corral` and `at`, 100 digits"
FEW = 25


def foolbox_pgd(foolbox, model, x, y):
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(wrapped, x, y, epsilons=EPS)[1]


def art_pgd(art, model, x, y):
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    loss = torch.nn.CrossEntropyLoss()
    wrapped = PyTorchClassifier(model, loss, x.shape[1:], 10, clip_values=(0, 1), device_type="cpu")
    attack = ProjectedGradientDescentPyTorch(wrapped, eps=EPS, eps_step=STEP, max_iter=STEPS, verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def torchattacks_pgd(torchattacks, model, x, y):
    return torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)(x, y)


LIBRARIES = {
    "Foolbox": ("foolbox", "foolbox", foolbox_pgd),
    "ART": ("adversarial-robustness-toolbox", "art", art_pgd),
    "torchattacks": ("torchattacks", "torchattacks", torchattacks_pgd),
}


@pytest.mark.parametrize("tool", LIBRARIES)
def test_their_pgd_and_ours_make_the_same_images(interop, images, ours, tool):
    distribution, module, attack = LIBRARIES[tool]
    row, library = interop(tool, distribution, PGD, module)
    x, y = images
    found = []
    for name, model in ours.items():
        theirs = attack(library, model, x, y)
        settings = {"eps": EPS, "steps": STEPS, "step_size": STEP, "random_start": False}
        same = pgd(model, x, y, keep="last", **settings)
        assert float(((theirs - same).abs().flatten(1).amax(1) < 1e-4).double().mean()) >= 0.97  # but for signs of 0
        left, own = robust(model, theirs, x, y), robust(model, same, x, y)
        best = robust(model, pgd(model, x, y, **settings), x, y)
        assert float((left != own).double().mean()) <= 0.02
        assert not bool((best & ~left).any())  # ours also counts the iterates before the last
        assert 0.1 < float(left.double().mean()) < 0.95
        found.append(f"`{name}` {percent(left)}, ours {percent(own)}")
    row.result = "robust accuracy: " + "; ".join(found)


@pytest.mark.parametrize("package", ["pyautoattack", "autoattack"])
def test_public_autoattack_finds_no_more_than_ours(interop, images, ours, package):
    tool = {"pyautoattack": "AutoAttack (package index)", "autoattack": "AutoAttack (fra31/auto-attack)"}[package]
    what = f"standard, Linf {EPS}, on `corral` and `at`, {FEW} digits"
    row, library = interop(tool, package, what, package)
    x, y = (part[:FEW] for part in images)
    found = []
    for name, model in ours.items():
        public = library.AutoAttack(model, norm="Linf", eps=EPS, version="standard", seed=0, device="cpu")
        public.verbose = False
        given = public.run_standard_evaluation(x, y, bs=FEW) if package == "autoattack" else None
        given = public.run_standard_evaluation(x, y, batch_size=FEW)[0] if given is None else given
        left, own = robust(model, given, x, y), robust(model, autoattack(model, x, y, eps=EPS), x, y)
        assert int(own.sum()) <= int(left.sum()) + 1
        found.append(f"`{name}` {percent(left)}, ours {percent(own)}")
    row.result = "robust accuracy: " + "; ".join(found)


def test_art_s_classifier_predicts_what_ours_does(interop, images, ours):
    row, _ = interop("ART", "adversarial-robustness-toolbox", "`PyTorchClassifier.predict` of our logits", "art")
    from art.estimators.classification import PyTorchClassifier

    x, _ = images
    for model in ours.values():
        loss = torch.nn.CrossEntropyLoss()
        wrapped = PyTorchClassifier(model, loss, x.shape[1:], 10, clip_values=(0, 1), device_type="cpu")
        with torch.no_grad():
            np.testing.assert_allclose(wrapped.predict(x.numpy()), model(x).numpy(), rtol=1e-5, atol=1e-5)
    row.result = "equal to 1e-5"
