"""The palette: contrast with both grounds, and no two colours alike, for colour-blind readers too."""

import itertools
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from corral.report.palette import CLASS_COLOURS, GROUND, VARIABLES, line_style, style_sheet

# Linear sRGB as seen without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
RULES = [dict(re.findall(r"--([a-z]+-\d+): (#[0-9A-Fa-f]{6});", rule)) for rule in style_sheet().split("@media")]
FEWEST_APART = 25


def linear(colour: str) -> NDArray[np.float64]:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, sight: NDArray[np.float64]) -> NDArray[np.float64]:
    ratios = XYZ @ np.clip(sight @ linear(colour), 0, 1) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_has_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21, abs=0.01)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("kind", ["run", "class"])
@pytest.mark.parametrize("ground", [0, 1])
def test_each_colour_stands_out_and_no_two_are_alike(kind: str, ground: int) -> None:
    colours = [colour for name, colour in RULES[ground].items() if name.startswith(kind)]
    assert len(colours) == {"run": 7, "class": 10}[kind]
    assert min(contrast(colour, GROUND[ground]) for colour in colours) >= 3
    for sight in SIGHT.values():
        seen = [lab(colour, sight) for colour in colours]
        assert min(math.dist(a, b) for a, b in itertools.combinations(seen, 2)) >= FEWEST_APART


def test_the_page_knows_every_colour_that_figures_are_drawn_with() -> None:
    drawn = [line_style(run).colour for run in range(7)] + list(CLASS_COLOURS)
    assert len({colour.lower() for colour in drawn}) == 17
    for colour in drawn:
        name = VARIABLES[colour.lower()]
        assert RULES[0][name] == colour
        assert name in RULES[1]
