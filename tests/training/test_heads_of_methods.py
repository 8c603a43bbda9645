"""What `[model] head` asks for is what every method trains, or one line refuses it before the first epoch."""

import pytest
import torch

from corral.errors import UsageError
from corral.models import Backbone, CosineHead
from corral.models.spec import head_spec
from corral.training import Run, Training, load_recipe, shipped_recipes
from corral.training.methods import METHODS
from corral.training.start import check_head

HEADS = (
    {"name": "linear"},
    {"name": "cosine", "clusters_per_class": 2, "scale": 3.0, "rule": "soft"},
    {"name": "cluster", "rule": "nearest", "clusters": 20},
    {"name": "features"},
)
# What some recipes leave to the user.
NEEDED = {"advcl": {"method.labeller": "a run", "method.clusterings": [5], "method.frequency": 2.0}}
RECIPES = {load_recipe(name).method.name: name for name in shipped_recipes()}
# Those whose head a recipe is free to choose.
FREE = {"nominal", "at", "at-pretrained", "fast-at", "free-at", "trades", "qtrades", "aff", "slf", "alf"}
FREE |= {"mart", "ikl", "nuat"}


def run_of(method, tmp_path, **given):
    start = "a run" if METHODS[method].continues_from else None
    settings = {"data.train": 120, "training.start": start, **NEEDED.get(method, {}), **given}
    resolved = load_recipe(RECIPES[method], data="digits", overrides=settings)
    return Training(resolved, Run(tmp_path / "run"), torch.device("cpu"), progress=False)


@pytest.mark.parametrize("method", RECIPES)
def test_every_method_trains_the_head_asked_for_or_refuses_it(method, tmp_path):
    assert run_of(method, tmp_path).method.name == method
    for asked in HEADS:
        if method in FREE and asked["name"] in ("linear", "cosine"):
            assert head_spec(run_of(method, tmp_path, **{"model.head": asked}).method.make_head()) == asked
        else:
            with pytest.raises(
                UsageError, match=f"method '{method}' .*: leave model.head ".replace("+", "[+]")
            ) as caught:
                run_of(method, tmp_path, **{"model.head": asked})
            assert "\n" not in str(caught.value)


def test_shipped_recipes_cover_all_methods():
    shipped = {name for name in METHODS if METHODS[name].__module__.startswith("corral.training.methods")}
    assert shipped == set(RECIPES)


def test_a_method_of_corral_with_its_own_head_does_not_point_to_itself(tmp_path):
    with pytest.raises(
        UsageError, match=r"method 'corral' has its own head, 'cluster': leave model.head 'cluster' out"
    ):
        run_of("corral", tmp_path, **{"model.head": "cluster"})


def test_an_option_that_the_methods_own_head_ignores_is_refused(tmp_path):
    class Sharp(METHODS["nominal"]):
        def make_head(self):
            return CosineHead(self.model.features_dim, self.context.num_classes, scale=5.0)

    def check(scale):
        run = run_of("nominal", tmp_path, **{"model.head": {"name": "cosine", "scale": scale}})
        check_head(run.recipe, run.spec, Sharp(run.method.context, run.recipe.method))

    check(5.0)
    with pytest.raises(UsageError, match=r"has its own head, 'cosine': leave model.head 'cosine' out"):
        check(3.0)


def test_a_backbone_says_itself_whether_it_is_one_lipschitz(tmp_path):
    assert not Backbone.one_lipschitz
    assert run_of("certified", tmp_path).model.backbone.one_lipschitz
    with pytest.raises(UsageError, match=r"needs a backbone that is 1-Lipschitz: .*one_lipschitz = True"):
        run_of("certified", tmp_path, **{"model.backbone": "mlp"})
