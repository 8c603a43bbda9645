"""The audit: what it measures is what is true, its budget holds, and wrong inputs are named rather than attacked."""

import json
import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from corral.attacks.attack import Attack
from corral.attacks.budget import Budget, BudgetEndedError, Pace, Paced
from corral.attacks.engine import run_attacks
from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat
from corral.audit import audit as audit_module
from corral.audit import session as audit_session
from corral.audit.audit import audit
from corral.audit.data import audit_images
from corral.audit.diagnostics import Diagnosis, Finding
from corral.audit.inputs import reordered_accuracy
from corral.audit.record import AuditRecord, read_audit, run_words, standard_error
from corral.cli.audit import audit as audit_command
from corral.data import DataSet, Images, load
from corral.documents import write_document
from corral.errors import CorralError, UsageError
from corral.models.contract import bare
from corral.models.statistics import STATISTICS, parse_normalise
from corral.targets.prepare import Preparation

CPU = torch.device("cpu")
EPS = 0.1
THREAT = Threat("Linf", EPS)


class Linear(nn.Module):
    """An affine classifier of flattened images, in whatever range `undo` takes back to [0, 1]."""

    def __init__(self, weight, bias, undo=lambda x: x, end=lambda z: z):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.undo, self.end = undo, end

    def forward(self, x):
        return self.end(nn.functional.linear(self.undo(x).flatten(1), self.weight, self.bias))


@cache
def solution(name):
    """Least squares on one-hot labels: the affine classifier of a data set in closed form."""
    data = digits() if name == "digits" else colours()
    x, y = data.train.float().flatten(1).double(), data.train.labels
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    gram = design.T @ design + 0.1 * torch.eye(design.shape[1])
    weights = torch.linalg.solve(gram, design.T @ nn.functional.one_hot(y).double())
    return weights[:-1].T.float().clone(), weights[-1].float().clone()


@cache
def digits():
    return load("digits")


@cache
def colours():
    """Four classes of 3-channel images that differ in their channels' means."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.8, 0.4, 0.2], [0.2, 0.5, 0.8], [0.5, 0.8, 0.4], [0.3, 0.2, 0.5]])
    labels = torch.arange(400) % 4
    noise = 0.2 * torch.rand(400, 3, 4, 4, generator=generator) - 0.1
    images = Images((centres[labels].view(400, 3, 1, 1) + noise).clamp(0, 1), labels)
    return DataSet("colours", ("a", "b", "c", "d"), images, images)


def classifier(name="digits", **options):
    return Linear(*(tensor.clone() for tensor in solution(name)), **options)


def finding(verdict="ok", name="check"):
    return Finding(
        name=name,
        title=f"Title of {name}",
        value=0.25,
        verdict=verdict,
        explanation="Explained.",
        remedy="Remedied.",
        n=5,
        seconds=0.1,
    )


def thresholds(shares, *, seconds=0.0):
    """Attacks that break an image by its mean brightness alone, after one pass over it (and a nap)."""

    def attack(number, share):
        def run(model, x, y, *, seed):
            with torch.no_grad():
                model(x)
            time.sleep(seconds)
            broken = x.flatten(1).mean(1) < share
            return Outcome(x, broken, torch.where(broken, 1, -1), len(x), 0)

        return Attack(f"attack-{number}", f"does {number}", (("queries", 1), ("restarts", 1)), THREAT, run)

    return tuple(attack(number, share) for number, share in enumerate(shares))


@pytest.fixture
def fast(monkeypatch):
    """Stand-ins for the diagnostics and AutoAttack; what the diagnostics are asked is kept."""
    asked = {"attacks": thresholds([0.25, 0.3]), "verdict": "ok", "calls": []}

    def diagnose(model, x, y, **options):
        asked["calls"].append((model, x, y, options))
        return Diagnosis(findings=(finding(asked["verdict"]),))

    monkeypatch.setattr(audit_session, "diagnose", diagnose)
    monkeypatch.setattr(audit_module, "standard_attacks", lambda threat, classes: asked["attacks"])
    return asked


def quick(model=None, data=None, **options):
    settings = {"eps": EPS, "minutes": 1, "n": 100, "device": "cpu", "progress": False} | options
    return audit(classifier() if model is None else model, digits() if data is None else data, **settings)


def test_the_robust_accuracy_of_a_linear_model_is_the_exact_one():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 12, generator=generator)
    labels = torch.arange(24) % 2
    direction = (weight[0] - weight[1]).sign() * (1 - 2 * labels.float()).unsqueeze(1)
    # Images at known Linf distances from the boundary through the grey image: half of them beyond eps.
    distance = torch.where(torch.arange(24) % 4 < 2, 0.02, 0.12)
    images = Images((0.5 + distance.unsqueeze(1) * direction).view(24, 3, 2, 2), labels)
    model = Linear(weight, -weight.sum(1) * 0.5)
    record = audit(
        model, DataSet("boundary", ("a", "b"), images, images), eps=0.05, minutes=3, device="cpu", progress=False
    )
    assert (record.clean, record.robust, record.n_attacked, record.reduced) == (1.0, 0.5, 24, False)
    assert [attack.name for attack in record.attacks] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (record.attacks[0].given, record.attacks[0].broken, record.attacks[1].given) == (24, 12, 12)
    assert record.robust_error == pytest.approx((0.25 / 24) ** 0.5)
    assert record.verdict == "pass"
    assert {finding.name for finding in record.findings} >= {"black_box", "zero_gradients", "autoattack_square"}


def test_the_attacks_are_a_cascade_and_the_record_adds_up(fast):
    record = quick(batch_size=7)
    given = audit_images(digits(), n=100, seed=0, root=None, device=CPU)
    x, y = given.images.float(), given.labels
    right = classifier()(x).argmax(1) == y
    mean = x.flatten(1).mean(1)
    first, second = right & (mean < 0.25), right & (mean >= 0.25) & (mean < 0.3)
    assert record.clean == record.clean_attacked == float(right.double().mean())
    assert [(a.given, a.broken) for a in record.attacks] == [
        (int(right.sum()), int(first.sum())),
        (int((right & ~first).sum()), int(second.sum())),
    ]
    assert record.robust == record.attacks[-1].accuracy == int((right & (mean >= 0.3)).sum()) / 100
    assert (record.n_data, record.n_asked, record.n_clean, record.n_attacked) == (500, 100, 100, 100)
    assert (record.verdict, record.reduced) == ("pass", False)
    assert run_words(record) == "AutoAttack standard on all 100 images asked for"
    assert quick(batch_size=100).attacks[-1].broken == record.attacks[-1].broken


def test_a_run_that_the_budget_ends_counts_whole_images_and_says_so(fast):
    fast["attacks"] = thresholds([0.25, 0.3], seconds=0.15)
    started = time.monotonic()
    record = quick(batch_size=5, minutes=1.5 / 60)
    assert time.monotonic() - started < 1.5 * 1.1 + 0.5
    assert 0 < record.n_attacked < 100
    assert record.n_attacked % 5 == 0
    assert record.reduced
    words = f"AutoAttack standard on the first {record.n_attacked} of 100 images, because the budget of 0.025 min ended"
    assert run_words(record) == words
    whole = audit_images(digits(), n=100, seed=0, root=None, device=CPU)
    x = whole.images.float()[: record.n_attacked]
    right = classifier()(x).argmax(1) == whole.labels[: record.n_attacked]
    assert record.robust == int((right & (x.flatten(1).mean(1) >= 0.3)).sum()) / record.n_attacked


class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.inner, self.seconds = classifier(), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.inner(x)


def test_the_deadline_holds_on_a_slow_model_and_no_part_of_an_attack_is_reported(monkeypatch):
    started = time.monotonic()
    record = quick(Slow(0.02), minutes=4 / 60, n=30)
    assert time.monotonic() - started < 4 * 1.1 + 0.5
    assert (record.n_attacked, record.robust, record.attacks) == (0, None, [])
    assert run_words(record) == "AutoAttack standard was not run: the time budget does not hold even one image"


def test_a_budget_that_measures_nothing_is_an_error(fast):
    fast["verdict"] = "skipped"
    fast["attacks"] = tuple(replace(a, settings=(("queries", 10**9), ("restarts", 1))) for a in thresholds([0.25]))
    with pytest.raises(CorralError, match=r"nothing could be measured in 1 min.*give more --minutes"):
        quick()


def test_a_chunk_that_is_cut_off_counts_nowhere():
    def endless(model, x, y, *, seed):
        while True:
            model(x)
            time.sleep(0.01)

    attacks = (*thresholds([0.25]), Attack("endless", "", (("queries", 1), ("restarts", 1)), THREAT, endless))
    x, y = torch.rand(20, 1, 8, 8), torch.zeros(20, dtype=torch.int64)
    model, budget = classifier(), Budget(0.5)
    found = run_attacks(
        model,
        x,
        y,
        attacks,
        right=torch.ones(20, dtype=torch.bool),
        budget=Paced(budget, Pace({1: 1e-4}, {1: 1e-4})),
        batch_size=10,
    )
    assert (len(found.broken), found.stopped, len(found.x_adv)) == (0, 10, 0)
    assert [(tally.given, tally.broken, tally.forwards) for tally in found.tallies] == [(0, 0, 0)] * 2
    assert budget.spent < 0.7
    assert not model._forward_pre_hooks


def test_the_deadline_is_raised_by_the_next_pass_and_the_hook_is_gone_after():
    moment = 0.0
    budget, model = Budget(10, lambda: moment), classifier()
    with budget.enforced(model, 5.0):
        model(torch.rand(1, 1, 8, 8))
        moment = 5.0
        with pytest.raises(BudgetEndedError):
            model(torch.rand(1, 1, 8, 8))
    model(torch.rand(1, 1, 8, 8))
    assert (budget.spent, budget.left) == (5.0, 5.0)


def test_the_pace_takes_the_largest_chunk_that_fits_and_learns_what_attacks_cost():
    pace = Pace({1: 0.001, 8: 0.004}, {1: 0.003, 8: 0.01})
    settings = {"steps": 100, "restarts": 1, "targets": 9}
    pace.expect(
        [
            Attack("a", "", (("steps", 100), ("restarts", 5)), THREAT, None),
            Attack("b", "", tuple(settings.items()), THREAT, None),
            Attack("c", "", (("queries", 5000), ("restarts", 1)), THREAT, None),
        ]
    )
    assert (pace.steps, pace.queries) == (500 + 900, 5000)
    for seconds in (10.0, 60.0, 600.0):
        size = pace.fitting(seconds, 1000)
        assert size == 0 or pace.worst(size) <= seconds
        assert size == 1000 or pace.worst(size + 1) > seconds
    pace.observe(100, 100, 100 * (0.003 + 0.05), gradients=True)
    pace.observe(100, 800, 100 * (0.004 + 0.02), gradients=False)
    assert pace.worst(1) == pytest.approx(1400 * 0.053 + 5000 * 0.021)
    pace.observe(3, 3, 100.0, gradients=True)
    assert pace.worst(16) == pytest.approx(1400 * 0.07 + 5000 * 0.028)


def test_every_first_part_of_the_images_is_a_fair_sample():
    given = audit_images(digits(), n=None, seed=5, root=None, device=CPU)
    counts = torch.bincount(given.labels)
    for part in (50, 137, 400):
        found = torch.bincount(given.labels[:part], minlength=10)
        assert (found - counts * part / len(given.labels)).abs().max() <= 2
    rows = given.images.float().flatten(1)
    assert torch.equal(rows.sort(0).values, digits().test.float().flatten(1).sort(0).values)
    again = audit_images(digits(), n=None, seed=6, root=None, device=CPU)
    assert not torch.equal(again.labels, given.labels)


def test_a_file_without_a_test_part_is_audited_on_all_its_images(tmp_path, fast):
    pixels, labels = digits().test.pixels.numpy(), digits().test.labels.numpy()
    np.savez(tmp_path / "whole.npz", images=pixels, labels=labels)
    np.savez(
        tmp_path / "split.npz",
        train_images=pixels[:300],
        train_labels=labels[:300],
        test_images=pixels[300:],
        test_labels=labels[300:],
    )
    whole, split = (quick(data=f"npz:{tmp_path}/{name}.npz", n=None) for name in ("whole", "split"))
    assert (whole.n_data, split.n_data) == (500, 200)
    assert "all 500 images, the source has no test part" in whole.data_note
    assert "no test part" not in split.data_note
    name = f"npz:{tmp_path}/whole.npz"
    own = audit_images(name, n=None, seed=0, root=None, device=CPU, trained_on=load(name).fingerprint)
    assert torch.bincount(own.labels).tolist() == torch.bincount(load(name).test.labels).tolist()


IMAGENET = tuple(torch.tensor(values).view(3, 1, 1) for values in STATISTICS["imagenet"])
MNIST_MEAN, MNIST_STD = (values[0] for values in STATISTICS["mnist"])
# What the model undoes, and the option that does it; None where several fit as well on so easy data.
MISFED = {
    "range": ("digits", lambda x: x / 255, "--scale 255"),
    "mnist": ("digits", lambda x: x * MNIST_STD + MNIST_MEAN, None),
    "from -1 to 1": ("colours", lambda x: x * 0.5 + 0.5, "--normalise half"),
    "imagenet": ("colours", lambda x: x * IMAGENET[1] + IMAGENET[0], None),
    "bgr": ("colours", lambda x: x.flip(1), "--bgr"),
    "bgr and range": ("colours", lambda x: x.flip(1) / 255, "--scale 255 --bgr"),
}


def preparation_of(options):
    """The preparation that the command line makes of options as a message names them."""
    words = options.split()
    mean, std = parse_normalise(words[words.index("--normalise") + 1]) if "--normalise" in words else (None, None)
    scale = float(words[words.index("--scale") + 1]) if "--scale" in words else 1.0
    return Preparation(scale, mean, std, "--bgr" in words)


@pytest.mark.parametrize("case", MISFED)
def test_a_misfed_model_is_recognised_and_the_option_named_gives_its_true_accuracy(fast, case):
    name, undo, options = MISFED[case]
    data = digits() if name == "digits" else colours()
    right = quick(classifier(name), data)
    as_is = quick(classifier(name, undo=undo), data, as_is=True)
    assert [finding.verdict for finding in as_is.inputs] == ["note"]
    with pytest.raises(CorralError) as caught:
        quick(classifier(name, undo=undo), data)
    message = str(caught.value)
    assert "not fed what it was trained on" in message
    assert "\n" not in message
    named = re.search(r"; give (--.*) \(eps stays in units of \[0, 1\]\)", message)[1]
    fed = quick(classifier(name, undo=undo), data, preparation=preparation_of(named))
    assert " ".join(fed.preparation) == named
    assert [finding.verdict for finding in fed.inputs] == ["ok"]
    assert fed.clean > right.clean - 0.03
    if options is not None:
        assert named == options
        assert (fed.clean, fed.robust) == pytest.approx((right.clean, right.robust))


def test_labels_that_count_from_another_number_are_recognised(fast):
    weight, bias = solution("digits")
    shifted = Linear(torch.cat([torch.zeros(1, 64), weight]), torch.cat([torch.tensor([-9.0]), bias]))
    with pytest.raises(CorralError, match=r"labels shifted by \+1: .* give --label-offset 1 "):
        quick(shifted)
    record = quick(shifted, preparation=Preparation(offset=1))
    assert record.clean == quick().clean
    (classes,) = (finding for finding in record.inputs if finding.name == "classes")
    assert "The model has 11 classes, the data 10" in classes.explanation


def test_classes_in_another_order_are_recognised(fast):
    weight, bias = solution("digits")
    order = torch.tensor([3, 5, 8, 0, 1, 9, 7, 6, 2, 4])
    with pytest.raises(CorralError, match="if the classes are renamed: the model numbers its classes in another order"):
        quick(Linear(weight[order], bias[order]))


def test_an_audit_in_which_next_to_nothing_was_measured_does_not_pass():
    """A model of 1,000 other classes classifies no image right: there is nothing to attack, and nothing to say."""
    weight = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    record = quick(Linear(weight, 1000.0 * (torch.arange(1000) >= 10)), as_is=True, n=20, minutes=1)
    made = [one.name for one in record.findings if one.verdict != "skipped"]
    assert (record.clean, len(made), len(record.findings)) == (0.0, 4, 14)
    assert record.verdict == "not measured"
    assert not any(attack.given for attack in record.attacks)
    with pytest.raises(ValueError, match="the verdict pass is not that of the findings"):
        AuditRecord(**(dict(record) | {"verdict": "pass"}))


@pytest.mark.parametrize("fails", [lambda x: len(x) % 2, lambda x: len(x) == 1, lambda x: x.requires_grad])
def test_a_model_that_fails_under_a_condition_is_refused_before_anything_is_measured(fast, fails):
    def end(z):
        if fails(z):
            raise RuntimeError("not this batch\nand more")
        return z

    with pytest.raises(CorralError, match=r"^Linear: the model fails on .*: RuntimeError: not this batch; ") as caught:
        quick(classifier(end=end))
    assert "\n" not in str(caught.value)
    assert not fast["calls"]


@pytest.mark.parametrize("end", [lambda z: (z,), lambda z: {"logits": z, "loss": z.sum()}, lambda z: z.squeeze(0)])
def test_unambiguous_outputs_are_audited_as_their_logits(fast, end):
    found, expected = quick(classifier(end=end)), quick()
    assert (found.clean, found.robust) == (expected.clean, expected.robust)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_is_audited_in_float32_and_the_record_says_so(fast, dtype):
    found, expected = quick(classifier().to(dtype)), quick(classifier().to(dtype).float())
    assert (found.clean, found.robust) == (expected.clean, expected.robust)
    assert found.notes[0] == f"the model's weights are {dtype}; it was computed in float32 with these weights"
    assert not expected.notes


@pytest.mark.parametrize(("norm", "eps", "largest"), [("L2", 128, "8"), ("L1", 255, "64")])
def test_a_radius_past_the_box_of_the_images_is_refused(fast, norm, eps, largest):
    words = f"eps {eps} is more than {largest}, the largest {norm} distance .* 1×8×8: did you mean {eps}/255?"
    with pytest.raises(UsageError, match=words):
        quick(norm=norm, eps=eps)


def test_reordering_cannot_make_accuracy_out_of_noise():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 50, (500,), generator=generator)
    predicted = torch.randint(0, 50, (500,), generator=generator)
    assert reordered_accuracy(predicted, y) < 0.06
    order = torch.randperm(50, generator=generator)
    assert reordered_accuracy(order[y], y) > 0.9


def test_a_well_fed_model_is_left_alone_and_a_hopeless_one_is_noted(fast):
    assert [finding.verdict for finding in quick().inputs] == ["ok"]
    generator = torch.Generator().manual_seed(0)
    hopeless = quick(Linear(torch.randn(10, 64, generator=generator), torch.zeros(10)))
    assert hopeless.inputs[-1].verdict == "note"
    assert "nothing tried is better" in hopeless.inputs[-1].explanation


def test_probabilities_are_attacked_as_their_logarithm(fast):
    record = quick(classifier(end=lambda z: (9 * z).softmax(1)))
    model, x, _, _ = fast["calls"][-1]
    assert torch.allclose(model(x), (9 * classifier()(x)).log_softmax(1), atol=1e-4)
    assert record.inputs[0].name == "probabilities"
    assert "the model ends in a softmax" in record.inputs[0].explanation
    quick(classifier(end=lambda z: z.log_softmax(1)))
    assert isinstance(bare(fast["calls"][-1][0]), Linear)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (classifier(end=lambda z: z[:, :7]), r"has 7 classes \(0 to 6\) but the labels run from 0 to 9"),
        (classifier(end=lambda z: (z, z)), "returns a tuple, expected a tensor of logits"),
        (classifier(end=lambda z: z[:, :1]), "returns one score an image, expected one a class"),
        (classifier(end=lambda z: z.sum(1)), r"returns torch.float32 \(8,\) for 8 images, expected float logits"),
        (classifier(end=lambda z: z / 0), "not finite for 8 of 8 images"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10)), r"takes images of \(3, 32, 32\), found"),
        (nn.Sequential(nn.Linear(1, 4), nn.Flatten(), nn.Linear(256, 10)), "give --nhwc"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10).double()), r"in float64, .* return the model with .float\(\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), r"does not take images of \(1, 8, 8\)"),
    ],
)
def test_what_no_attack_can_use_is_one_line(fast, model, words):
    with pytest.raises(CorralError, match=words) as caught:
        quick(model)
    assert "\n" not in str(caught.value)


def test_nhwc_models_are_attacked_in_nchw(fast):
    model = nn.Sequential(nn.Linear(1, 4), nn.Flatten(), nn.Linear(256, 10))
    torch.nn.init.normal_(model[2].weight, generator=torch.Generator().manual_seed(0))
    record = quick(model, preparation=Preparation(nhwc=True), as_is=True)
    assert record.preparation == ["--nhwc"]
    assert record.image_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 0}, "--minutes must be above 0"),
        ({"eps": None}, "give --eps"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": 0}, "eps must be above 0"),
        ({"norm": "L3"}, "norm 'L3' is not one of Linf, L2, L1"),
        ({"n": 501}, "a subset of 501 images is impossible"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_wrong_requests_are_usage_errors(options, words):
    with pytest.raises(UsageError, match=words):
        quick(**options)


def test_normalise_takes_names_and_numbers():
    assert parse_normalise("half") == ((0.5,), (0.5,))
    assert parse_normalise("0.1,0.2,0.3/1,2,3") == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    for wrong in ("imagnet", "0.1", "0.1/0", "0.1,0.2/1", "/", "1,,2/1,2,3", "nan/1"):
        with pytest.raises(UsageError, match="--normalise takes half, imagenet, cifar10"):
            parse_normalise(wrong)


def test_the_same_audit_twice_is_the_same(fast):
    skipped = {"created", "seconds", "diagnostics_seconds", "attacks", "inputs"}
    first, second = quick(), quick()
    assert first.model_dump(exclude=skipped) == second.model_dump(exclude=skipped)


def test_square_after_white_box_attacks_counts_as_a_diagnostic(fast):
    def named(attacks):
        return (*attacks[:-1], Attack("square", "", attacks[-1].settings, THREAT, attacks[-1].run))

    fast["attacks"] = named(thresholds([0.2, 0.2]))
    assert (quick().findings[-1].verdict, quick().verdict) == ("ok", "pass")
    fast["attacks"] = named(thresholds([0.2, 0.35]))
    record = quick()
    assert (record.findings[-1].name, record.findings[-1].verdict) == ("autoattack_square", "masked")
    assert record.findings[-1].value == record.attacks[-1].broken / 100
    assert record.verdict == "masked"


def test_a_record_survives_the_disk_and_contradictions_do_not(fast, tmp_path):
    record = quick()
    write_document(record, tmp_path / "audit.json")
    assert read_audit(tmp_path / "audit.json") == record
    content = json.loads((tmp_path / "audit.json").read_text())
    for change, words in (
        ({"n_attacked": 99}, "does not go with reduced"),
        ({"verdict": "masked"}, "is not that of the findings"),
        ({"robust": None}, "robust accuracy None of 100"),
        ({"n_clean": 101}, "100 attacked of 101 of 100 of 500"),
        ({"extra": 1}, "extra"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(content | change))
        with pytest.raises(CorralError, match=words):
            read_audit(tmp_path / "wrong.json")
    with pytest.raises(CorralError, match="make it with `corral audit`"):
        read_audit(tmp_path / "absent.json")


def test_the_standard_error_is_binomial_and_never_zero():
    assert standard_error(0.5, 100) == 0.05
    assert standard_error(0.0, 10) == pytest.approx((0.05 * 0.95 / 10) ** 0.5)
    assert standard_error(1.0, 10) == pytest.approx(standard_error(0.0, 10))


@pytest.fixture
def command(tmp_path, fast, monkeypatch):
    """Runs `corral audit` on the linear model, from a file of code."""
    monkeypatch.chdir(tmp_path)
    weight, bias = solution("digits")
    np.savez(tmp_path / "weights.npz", weight=weight.numpy(), bias=bias.numpy())
    (tmp_path / "linear_target.py").write_text(
        "import numpy, torch\n"
        "def load():\n"
        "    found = numpy.load('weights.npz')\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    model[1].weight.data = torch.from_numpy(found['weight'])\n"
        "    model[1].bias.data = torch.from_numpy(found['bias'])\n"
        "    print('noise of the model')\n"
        "    return model\n"
    )
    app = typer.Typer()
    app.command()(audit_command)

    def run(*options):
        arguments = ["linear_target.py:load", "--data", "digits", "--n", "50", "--eps", "0.1", "--quiet", *options]
        return CliRunner().invoke(app, [*arguments, "--device", "cpu"])

    return run


@pytest.mark.parametrize(
    ("verdict", "code", "head"),
    [("ok", 0, "Pass: no sign of"), ("masked", 3, "Masked: "), ("skipped", 4, "Not measured: only 0 of 1 checks ")],
)
def test_the_exit_code_says_pass_or_masked(command, fast, tmp_path, verdict, code, head):
    fast["verdict"] = verdict
    result = command()
    assert result.exit_code == code, result.output
    assert result.stdout.startswith(head)
    assert ("masked: Title of check. Explained. Remedied." in result.stdout) == (verdict == "masked")
    record = read_audit(tmp_path / "audit.json")
    assert (record.target, record.kind, record.n_attacked) == ("linear_target.py:load", "python", 50)
    assert (tmp_path / "audit.html").read_text().startswith("<!DOCTYPE html>")


def test_json_is_the_record_and_nothing_else(command, tmp_path):
    result = command("--json", "--out", "pages/mine.html", "--norm", "l2")
    record = AuditRecord.model_validate_json(result.stdout)
    assert record == read_audit(tmp_path / "pages" / "mine.json")
    assert record.norm == "L2"


def test_an_interrupted_audit_writes_nothing(command, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_module, "run_attacks", interrupted)
    result = command()
    assert result.exit_code == 130
    assert not list(tmp_path.glob("audit*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "audit.json"), "must name the page"),
        (("--scale", "0"), "--scale must be above 0"),
        (("--normalise", "x"), "--normalise takes"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(command, options, words):
    result = command(*options)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


@pytest.mark.parametrize("leaves", ["sys.exit(0)", "raise typer.Exit(0)", "raise GeneratorExit", "sys.exit('why')"])
@pytest.mark.parametrize("after", [0, 8])
def test_a_model_that_exits_is_an_error_and_no_pass(command, tmp_path, leaves, after):
    (tmp_path / "linear_target.py").write_text(
        "import sys, torch, typer\n"
        "class Leaving(torch.nn.Module):\n"
        "    passes = 0\n"
        "    def forward(self, x):\n"
        "        self.passes += 1\n"
        f"        if self.passes > {after}:\n            {leaves}\n"
        "        return x.flatten(1)[:, :10]\n"
        "load = Leaving\n"
    )
    result = command("--as-is")
    assert result.exit_code == 1
    assert isinstance(result.exception, CorralError)
    assert "\n" not in str(result.exception)
    assert not list(tmp_path.glob("audit*"))
