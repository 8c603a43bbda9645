"""The classifier as a plain module: normalisation inside, checks at the door, heads that share a backbone."""

import pytest
import torch
from torch import nn

from corral.models import Classifier, ClusterHead, ConvNet, LinearHead


def images(n=5, size=8, dtype=torch.float32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def classifier(head=None):
    torch.manual_seed(0)
    backbone = ConvNet(3, 8, width=4, features=6)
    return Classifier(backbone, head or LinearHead(6, 4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), image_size=(8, 8))


def test_normalisation_is_the_first_layer():
    model, x = classifier(), images()
    by_hand = torch.stack([(x[:, i] - (i + 1) / 10) / ((i + 5) / 10) for i in range(3)], 1)
    features = model.backbone(by_hand)
    torch.testing.assert_close(model.features(x), features)
    torch.testing.assert_close(model(x), model.head(features))
    assert torch.equal(model.logits_from(model.features(x)), model(x))
    assert (model.num_classes, model.features_dim) == (4, 6)


def test_normalisation_does_not_train_and_is_saved():
    model = classifier()
    assert not any("normalisation" in name for name, _ in model.named_parameters())
    state = model.state_dict()
    assert state["normalisation.mean"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert state["normalisation.std"].tolist() == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 8), r"images must be \(N, 3, H, W\), found \(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8), r"images must be \(N, 3, H, W\), found \(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 9), "images must be 8×8, found 8×9"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "found torch.uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), "images must be torch.float32"),
    ],
)
def test_wrong_images_are_one_clear_line(x, message):
    with pytest.raises(ValueError, match=message) as caught:
        classifier()(x)
    assert "\n" not in str(caught.value)


def test_a_double_model_takes_double_images():
    x = images(dtype=torch.float64)
    single, double = classifier(), classifier().double()
    assert double(x).dtype == torch.float64
    torch.testing.assert_close(double(x).float(), single(x.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.1,), (1.0, 1.0)), ((0.1,), (0.0,)), ((float("nan"),), (1.0,)), (0.5, 0.5)]
)
def test_impossible_normalisation_is_refused(mean, std):
    with pytest.raises(ValueError, match="mean"):
        Classifier(ConvNet(1, 8), LinearHead(64, 2), mean, std)


def test_head_and_backbone_must_fit():
    with pytest.raises(ValueError, match="the backbone gives 64 features, the head expects 32"):
        Classifier(ConvNet(1, 8), LinearHead(32, 2), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="the backbone gives 6 features, the head expects 7"):
        classifier().with_head(LinearHead(7, 4))


def test_with_head_shares_modules_and_mode():
    model, x = classifier().eval(), images()
    head = ClusterHead(torch.eye(6)[:4], torch.arange(4), 1.0)
    twin = model.with_head(head)
    assert twin.backbone is model.backbone
    assert twin.normalisation is model.normalisation
    assert not twin.training
    assert torch.equal(twin(x), head(model.features(x)))
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(0.5)
    assert torch.equal(twin(x), head(model.features(x)))
    with pytest.raises(ValueError, match="images must be 8×8"):
        twin(images(size=16))


def test_plain_modules_serve_as_backbone_and_head():
    x = images()
    model = Classifier(nn.Flatten(), nn.Linear(192, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    torch.testing.assert_close(model(x), model.head(x.flatten(1)))


def test_autocast_gives_float32_logits_of_the_exact_head():
    head = ClusterHead(torch.eye(6)[:4], torch.arange(4), 0.01)
    model, x = classifier(head), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, logits = model.features(x), model(x)
    assert features.dtype == logits.dtype == torch.float32
    assert torch.equal(logits, head(features))


def test_input_gradients_reach_every_pixel_channel():
    x = images().requires_grad_()
    classifier()(x).square().sum().backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    assert torch.isfinite(x.grad).all()
