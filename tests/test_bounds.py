"""Numbers beyond every use are refused where they are declared: options, settings, recipes, documents."""

import json
from pathlib import Path

import pytest
import torch
import typer
from experiments.arena.table import ArenaTable
from typer.testing import CliRunner

import corral
from corral.attacks.registry import ATTACKS
from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.cli import app
from corral.cli.options import parse_setting
from corral.documents import read_document
from corral.errors import MOST_LETTERS, CorralError, UsageError
from corral.models.heads import HEADS
from corral.models.spec import ModelSpec, build_classifier
from corral.papers.result import Result, read_result
from corral.records import Record
from corral.strict import MOST_REAL, MOST_WHOLE
from corral.training import load_recipe, parse_eps, shipped_recipes
from corral.training.recipes.files import _known_keys

ROOT = Path(__file__).resolve().parents[1]
RESULTS, CHECKPOINT = ROOT / "results", ROOT / "src" / "corral" / "zoo" / "digits-corral"
COMMANDS = typer.main.get_command(app).commands
NUMERIC = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.type_descriptor.annotation in (int, float)
]
ENDLESS = ("1" + "0" * 20, "-1" + "0" * 20)
RECIPES = [name for name in shipped_recipes() if load_recipe(name).method.name]
ONE_A_METHOD = sorted({load_recipe(name).method.name: name for name in RECIPES}.values())


def refusal(call, kind=CorralError):
    with pytest.raises(kind) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("command", "option"), NUMERIC, ids=lambda one: one if isinstance(one, str) else one.name)
def test_every_number_on_the_command_line_has_a_bound(command, option):
    assert option.max <= max(MOST_WHOLE, MOST_REAL)
    positional = ["x"] * sum(one.param_type_name == "argument" for one in COMMANDS[command].params)
    for value in (*ENDLESS, "1e308", "nan", "9" * 5000):
        result = CliRunner().invoke(app, [command, *positional, option.opts[0], value])
        assert result.exit_code in (1, 2)
        assert result.exception is None or isinstance(result.exception, SystemExit | UsageError)


@pytest.mark.parametrize("recipe", ONE_A_METHOD)
def test_every_number_of_a_recipe_has_a_bound(recipe):
    for key in _known_keys(load_recipe(recipe).model_dump(exclude_none=True)):
        for value in (10**20, -(10**20), 1e39, -1e39, float("nan"), float("inf"), 10**5000):
            message = refusal(lambda key=key, value=value: load_recipe(recipe, overrides={key: value}), UsageError)
            assert len(message) <= MOST_LETTERS + 5


@pytest.mark.parametrize("attack", ATTACKS.names())
def test_every_number_of_an_attack_has_a_bound(attack):
    for name, option in ATTACKS.find(attack).options.items():
        if {int, float} & set(option.kinds):
            for value in (*ENDLESS, "1e39", "9" * 4400):
                assert name in refusal(lambda name=name, value=value, option=option: option.checked(name, value))


@pytest.mark.parametrize("value", ["1e39", "1" * 4400, "[" * 5000, '"\\ud800"', "nan", str(2**64)])
def test_a_setting_that_no_recipe_could_hold_is_one_line(value):
    def train():
        load_recipe("at", overrides=dict([parse_setting(f"training.learning_rate={value}")]))

    assert "training.learning_rate: " in refusal(train, UsageError)


@pytest.mark.parametrize("value", ["1e308", 1e308, "9" * 300, 10**400, "1e10", "9/0.0000000001"])
def test_no_radius_is_beyond_all_images(value):
    with pytest.raises(ValueError, match="eps"):
        parse_eps(value, "L2")


def test_a_network_larger_than_the_memory_is_refused_before_it_is_made():
    spec = {"image_shape": (3, 32, 32), "num_classes": 10, "mean": (0.0,) * 3, "std": (1.0,) * 3, "head": "linear"}
    for backbone in ({"name": "convnet", "width": 10**6}, {"name": "mlp", "hidden": [10**6, 10**6]}):
        found = ModelSpec.model_validate({**spec, "backbone": backbone})
        assert "more than this machine's memory" in refusal(lambda found=found: build_classifier(found), UsageError)


def test_looking_at_the_size_of_a_network_draws_nothing():
    spec = ModelSpec.model_validate(json.loads(json.dumps(corral_spec())))
    torch.manual_seed(0)
    build_classifier(spec)
    expected = torch.rand(1)
    torch.manual_seed(0)
    from corral.models.backbones import build_backbone

    backbone = build_backbone(spec.backbone.name, spec.image_shape, spec.backbone.options())
    spec.build_head(backbone.features_dim)
    assert torch.equal(torch.rand(1), expected)


def corral_spec():
    return read_checkpoint(CHECKPOINT / "model.safetensors", kind="model")[1]["spec"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("eps", 1e308), ("eps", 2.0), ("eps", -0.1), ("train_images", -1), ("train_seconds", 1e300), ("epochs", 2**60)],
)
def test_a_model_s_description_has_bounds(tmp_path, key, value):
    tensors, metadata = read_checkpoint(CHECKPOINT / "model.safetensors", kind="model")
    write_checkpoint(tmp_path / "model.safetensors", tensors, metadata | {"info": metadata["info"] | {key: value}})
    message = refusal(lambda: corral.load(tmp_path / "model.safetensors"))
    assert f"the model's description is damaged ({'' if value == 2.0 else key}" in message


def test_a_description_nested_without_end_is_one_line(tmp_path):
    from safetensors.torch import save

    (tmp_path / "model.safetensors").write_bytes(save({"x": torch.zeros(1)}, {"corral": "[" * 100_000}))
    assert "nested too deep" in refusal(lambda: corral.load(tmp_path / "model.safetensors"))


def numbers(content, place=()):
    """The places of all numbers of a document."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from numbers(value, (*place, key))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield place, content


def changed(content, place, value):
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


RECORD = {
    "format": "corral-record-1", "run": "r", "recipe": "at", "method": "at", "head": "linear", "rule": None,
    "data": "digits", "data_fingerprint": "0", "model_fingerprint": "0", "n": 4, "n_test": 4, "train_seed": 0,
    "train_seconds": 1.0, "created": "now", "classes": ["0", "1"], "reduced": False, "norm": "Linf", "eps": 0.1,
    "clean": 1.0, "clean_per_class": [1.0, 1.0], "eval_seed": 0, "eval_seconds": 1.0,
    "environment": {"corral": "0", "torch": "2", "python": "3", "device": "cpu", "threads": 1, "platform": "x"},
    "attacks": [{
        "name": "pgd", "protocol": "p", "norm": "Linf", "eps": 0.1, "steps": 1, "step_size": 0.1, "restarts": 1,
        "objective": "ce", "success_rule": "any_iterate", "n": 4, "accuracy": 0.5, "per_class": [0.5, 0.5],
        "seconds": 1.0, "seed": 0, "forwards": 4, "backwards": 4,
    }],
    "curves": [{"attack": "pgd", "norm": "Linf", "n": 4, "eps": [0.0, 0.1], "accuracy": [1.0, 0.5]}],
    "reported": {"clean": 0.5, "robust": 0.5, "attack": "a", "source": "s"},
}  # fmt: skip


def test_every_number_of_a_record_has_bounds():
    Record.model_validate(RECORD)
    for place, _ in numbers(RECORD):
        for value in (-1, 1e308) if "seed" not in str(place[-1]) else (1e308,):
            with pytest.raises(ValueError, match=str(place[-1])):
                Record.model_validate(changed(RECORD, place, value))
    for place in (("clean",), ("clean_per_class", 0), ("attacks", 0, "per_class", 1), ("curves", 0, "accuracy", 0)):
        with pytest.raises(ValueError, match="less than or equal to 1"):
            Record.model_validate(changed(RECORD, place, 3.0))
    for place in (("eps",), ("attacks", 0, "eps"), ("curves", 0, "eps", 1)):
        with pytest.raises(ValueError, match="an Linf eps is at most 1, found 36"):
            Record.model_validate(changed(RECORD, place, 36))


def test_accuracies_of_a_table_are_shares():
    path = RESULTS / "tables" / "ncp-table5-small" / "table.json"
    table = json.loads(path.read_text())
    del table["sha256"]
    places = [place for place, _ in numbers(table) if "sound" in place or place[-2] == "train_seconds"]
    assert places
    for place in places:
        for value in (-1, 3.0 if "sound" in place else 1e308):
            with pytest.raises(ValueError, match=r"accuracy is from 0 to 1|train_seconds|keeps other images"):
                Result.model_validate(changed(table, place, value))


def test_every_committed_table_is_within_the_bounds():
    for path in sorted(RESULTS.glob("tables/*/table.json")):
        if path.parent.name.startswith("arena-"):
            read_document(path, ArenaTable, kind="arena table", command="make arena")
        else:
            read_result(path)


def test_a_message_is_one_line_whatever_it_quotes():
    assert str(CorralError("a\nb: c\r\n; do this")) == "a\\nb: c\\n; do this"


def test_a_message_is_never_endless():
    assert str(CorralError("found " + "9" * 10_000 + "; do this")) == f"found {'9' * 150} ... {'9' * 149}; do this"
    message = str(CorralError("word " * 10_000 + "end"))
    assert len(message) == MOST_LETTERS + len(" ... ")
    assert message.endswith("end")
    assert str(CorralError("short")) == "short"


def test_heads_have_bounds_too():
    for name in HEADS:
        for option in HEADS.find(name).option_names():
            spec = {"name": name, option: 10**20}
            refusal(lambda spec=spec: load_recipe("at", overrides={"model.head": spec}), UsageError)
