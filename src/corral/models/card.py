"""The card of a classifier: what it is, how it is loaded, what was measured of it and what was not."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corral.records import AttackResult, Record, as_percent
from corral.terminal import eps_words, one_line

NORMS = ("Linf", "L2", "L1")
# Classes that a card names.
NAMED = 20


def card(
    name: str, config: Mapping[str, Any], *, parameters: int, records: Sequence[Record], licence: str | None
) -> str:
    """The text of README.md, with the Hub's metadata above it.

    Args:
        name: what the model is called; "user/name" on the Hub.
        config: what config.json has.
        parameters: how many it has.
        records: its evaluations.
        licence: as the Hub names it.
    """
    parts = [_metadata(name, records, licence), _introduction(name, config), _facts(config, parameters)]
    parts += ["## Measured", *(_measured(record) for record in records)] if records else []
    return "\n\n".join([*parts, _unmeasured(records)]) + "\n"


def public_name(name: str) -> str:
    """A name without the folders of whoever gave it: of "/home/me/net.py:build" it keeps "net.py:build"."""
    kind, colon, rest = name.partition(":")
    if "/" in rest:  # folder:/home/me/photos?size=64
        rest = Path(rest.rstrip("/")).name
    return f"{Path(kind).name if '/' in kind else kind}{colon}{rest}"


def _metadata(name: str, records: Sequence[Record], licence: str | None) -> str:
    """The YAML above a card, whose values are written as JSON, which YAML contains."""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": public_name(record.data), "type": public_name(record.data)},
            "metrics": [
                {"type": "accuracy", "name": f"accuracy without attack, n = {record.n}", "value": record.clean},
                *(
                    {"type": "accuracy", "name": f"accuracy under {_threat(one)}, n = {one.n}", "value": one.accuracy}
                    for one in record.attacks
                ),
            ],
        }
        for record in records
    ]
    values: dict[str, Any] = {
        "library_name": "corral",
        "pipeline_tag": "image-classification",
        "tags": ["corral", "adversarial-robustness", "clustering"],
    }
    values |= {} if licence is None else {"license": licence}
    values |= {"model-index": [{"name": name, "results": results}]} if results else {}
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _threat(one: AttackResult) -> str:
    return f"{one.name}, {one.norm} {eps_words(one.eps)}"


def _introduction(name: str, config: Mapping[str, Any]) -> str:
    channels, height, width = config["image_shape"]
    backbone = ", backbone=network" if config["needs_backbone"] else ""
    own = ""
    if config["needs_backbone"]:
        own = (
            f"\n\nIts backbone, {_escaped(config['backbone']['name'])}, is not corral's own: `network` is that module, "
            "or a function that makes it. Its weights are in the file, its code is not; nothing here is run as code."
        )
    return f"""# {_escaped(name)}

An image classifier made by corral {config["corral_version"]}. It takes float images of {channels} × {height} × {width}
in [0, 1], which it normalises itself, and returns logits of {config["num_classes"]} classes.

```python
import corral  # pip install 'corral[hub]'

model = corral.Classifier.from_pretrained({json.dumps(name)}{backbone})
logits = model(x)  # x: (N, {channels}, {height}, {width}) floats in [0, 1]
```{own}"""


def _facts(config: Mapping[str, Any], parameters: int) -> str:
    classes = [_escaped(one) for one in config["classes"]]
    more = f" and {len(classes) - NAMED:,} more" if len(classes) > NAMED else ""
    options = {key: value for key, value in config["backbone"].items() if key != "name"}
    rows = {
        "backbone": " ".join([_escaped(config["backbone"]["name"]), _options(options)]).strip(),
        "head": " ".join(
            [config["head"]["name"], _options({k: v for k, v in config["head"].items() if k != "name"})]
        ).strip(),
        "classes": f"{', '.join(classes[:NAMED])}{more}" if classes else "not named",
        "parameters": f"{parameters:,}",
        "fingerprint of the weights": config["fingerprint"],
    }
    return "## What it is\n\n" + _table(["", ""], [[key, value] for key, value in rows.items()])


def _options(options: Mapping[str, Any]) -> str:
    return _escaped(f"({', '.join(f'{key} {value}' for key, value in options.items())})") if options else ""


def _measured(record: Record) -> str:
    made = record.environment
    images = "all" if record.n == record.n_test else f"{record.n:,} of"
    rows = [["none", "–", as_percent(record.clean), f"{record.n:,}"]]
    rows += [
        [_escaped(one.name), f"{one.norm} {eps_words(one.eps)}", as_percent(one.accuracy), f"{one.n:,}"]
        for one in record.attacks
    ]
    return (
        f"Protocol {_escaped(record.protocol)} on {images} {record.n_test:,} test images of "
        f"{_escaped(public_name(record.data))} (fingerprint {record.data_fingerprint}), seed {record.eval_seed}, by "
        f"corral {made.corral}, torch {made.torch}, Python {made.python} on {_escaped(made.device)}, "
        f"{record.created}.\n\n" + _table(["attack", "threat", "accuracy, %", "images"], rows)
    )


def _unmeasured(records: Sequence[Record]) -> str:
    """What a reader must not take for granted."""
    if not records:
        lines = ["Nothing was measured: no accuracy of this model is stated here, without attack or under any."]
    else:
        norms = [norm for norm in NORMS if norm not in {record.norm for record in records}]
        reduced = [record for record in records if record.reduced]
        protocols = {record.protocol for record in records}
        lines = [f"Attacks in {' and '.join(norms)}." if norms else ""]
        lines += [
            f"The other {record.n_test - record.n:,} of {record.n_test:,} test images, by the protocol "
            f"{_escaped(record.protocol)}."
            for record in reduced
        ]
        lines += ["AutoAttack (protocol standard)."] if "standard" not in protocols else []
        lines += ["Attacks that are adapted to this model (protocol adaptive)."] if "adaptive" not in protocols else []
    lines += ["Corruptions, other data than those above, and anything beyond attacks on pixels within these radii."]
    lines += ["Accuracy under attack is an upper bound on robust accuracy; a certified one is not stated here."]
    return "## Not measured\n\n" + "\n".join(f"- {line}" for line in lines if line)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: object) -> str:
    """A text as Markdown shows it, on one line: a class may be called as a link is written."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", one_line(str(text)))
