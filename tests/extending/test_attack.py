"""docs/extending/attack.md runs as it stands there."""

import json
from collections.abc import Callable
from pathlib import Path


def test_the_attack_of_the_page_is_run_by_its_file_and_by_its_name(
    extending: Callable[[str], str], tmp_path: Path
) -> None:
    extending("extending/attack.md")
    records = tmp_path / "runs" / "nominal" / "records"
    custom, momentum = (json.loads((records / f"{label}-n60.json").read_text()) for label in ("custom", "momentum"))
    names = ["ni_fgsm:steps=5", "mi-fgsm:steps=5", "worst_case"]
    assert [attack["name"].replace("ni-", "ni_") for attack in custom["attacks"]] == names
    assert custom["attacks"][0]["settings"] == {"steps": 5, "momentum": 1.0}
    assert custom["attacks"][0]["success_rule"] == "max_loss_restart"
    # Five steps forward and backward, then the clean images and the last points.
    assert (custom["attacks"][0]["forwards"], custom["attacks"][0]["backwards"]) == (60 * 7, 60 * 5)
    accuracies = {attack["name"]: attack["accuracy"] for attack in momentum["attacks"]}
    assert list(accuracies) == ["mi-fgsm", "ni-fgsm", "momentum_worst", "worst_case"]
    assert accuracies["momentum_worst"] <= min(accuracies["mi-fgsm"], accuracies["ni-fgsm"]) < momentum["clean"]
