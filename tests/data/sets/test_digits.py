import torch
from sklearn.datasets import load_digits

from corral.data import load
from corral.data.sets import digits


def test_digits_are_the_embedded_images_in_256_levels() -> None:
    data = load("digits")
    source = load_digits()
    expected = {}
    for image, label in zip(source.images, source.target, strict=True):
        key = bytes(round(level * 255 / 16) for level in image.ravel())
        expected[key] = int(label)
    images = torch.cat([data.train.pixels, data.test.pixels])
    labels = torch.cat([data.train.labels, data.test.labels])
    found = {bytes(image.flatten().tolist()): int(label) for image, label in zip(images, labels, strict=True)}
    assert len(images) == 1797
    assert found == expected


def test_another_layout_of_scikit_learn_gives_the_same(monkeypatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert load("digits").fingerprint == "680bf2a70a584fdf"


def test_the_test_part_is_fixed_stratified_and_apart() -> None:
    data, again = load("digits"), load("digits")
    assert (len(data.train), len(data.test)) == (1297, 500)
    assert data.train.shape == (1, 8, 8)
    assert data.fingerprint == again.fingerprint == "680bf2a70a584fdf"
    shares = torch.bincount(data.test.labels) / torch.bincount(torch.cat([data.train.labels, data.test.labels]))
    assert (shares - 500 / 1797).abs().max() < 1 / 174
    train, test = ({bytes(image.flatten().tolist()) for image in part.pixels} for part in (data.train, data.test))
    assert not train & test
