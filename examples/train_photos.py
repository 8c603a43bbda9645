"""Train corral's method on a folder of photos of any sizes, with a network of your own.

python examples/train_photos.py PHOTOS

PHOTOS has one folder for each class, or train/ and val/ (or test/) with those.
"""

import sys

from torch import nn

import corral


def network(width: int = 32) -> nn.Module:
    """Colour images of any size to `width` features, which corral finds; it puts its own head behind them."""
    layers: list[nn.Module] = []
    for before, after in ((3, width // 2), (width // 2, width), (width, width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def main(photos: str, size: int = 64, out: str = "runs/photos", **settings: object) -> corral.Run:
    """Train, attack with PGD, and write a page."""
    data = f"folder:{photos}?size={size}"  # the shorter side resized, the middle cut out
    run = corral.train("corral", data=data, backbone=network, eps="4/255", out=out, resume="auto", **settings)
    record = corral.evaluate(run)
    print(run, record, sep="\n")
    corral.report(run, out="photos.html")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])
