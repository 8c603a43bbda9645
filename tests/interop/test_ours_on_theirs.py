"""Our attacks and our audit take other libraries' models as they are, and what they find holds in these libraries."""

import pytest
import torch
from tests.interop.shared import EPS, SIDE, percent, robust

import corral
from corral.attacks import pgd
from corral.data import DataSet, Images

pytestmark = pytest.mark.filterwarnings("ignore")


def timm_resnet(timm):
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, layers=(1, 1, 1, 1), channels=(8, 16, 16, 16), num_classes=4)


def timm_convnext(timm):
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), ls_init_value=1.0, num_classes=4)


def timm_vit(timm):
    return timm.create_model("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2, num_classes=4)


def torchvision_resnet(torchvision):
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)


def torchvision_vit(torchvision):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(SIDE, 8, num_classes=4, **sizes)
    torch.nn.init.normal_(model.heads.head.weight)  # zeros by default: no class is ahead
    return model


def torchvision_convnext(torchvision):
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], layer_scale=1.0, num_classes=4)


def transformers_vit(transformers):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=SIDE, patch_size=8, num_labels=4, **sizes)
    return transformers.ViTForImageClassification(config)


def transformers_convnext(transformers):
    config = transformers.ConvNextConfig(
        image_size=SIDE, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=4
    )
    return transformers.ConvNextForImageClassification(config)


MODELS = {
    make.__name__.replace("_", " "): (module, make)
    for module, makers in {
        "timm": (timm_resnet, timm_vit, timm_convnext),
        "torchvision": (torchvision_resnet, torchvision_vit, torchvision_convnext),
        "transformers": (transformers_vit, transformers_convnext),
    }.items()
    for make in makers
}


def seeded():
    """The same random starts each time."""
    return torch.Generator().manual_seed(0)


def logits(model, x):
    found = model(x)
    return getattr(found, "logits", found)


def trained(make, library, x, y):
    """Their network after some steps on the colours, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(library).train()
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(30):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits(model, x), y).backward()
            optimiser.step()
        with torch.no_grad():
            for _ in range(30):  # for the running averages of BatchNorm
                model(x)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_our_pgd_changes_the_labels_of_their_networks(interop, colours, name):
    module, make = MODELS[name]
    what = f"our PGD-10, Linf 32/255, on its {name.split()[1]}, 32 images"
    row, library = interop(module, module, what, module)
    x, y = colours
    model = trained(make, library, x, y)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x_adv = pgd(model, x, y, eps=32 / 255, steps=10, step_size=8 / 255, generator=seeded())
    clean = robust(lambda x: logits(model, x), x, x, y)
    left = robust(lambda x: logits(model, x), x_adv, x, y, eps=32 / 255)
    assert float(left.double().mean()) < float(clean.double().mean()) - 0.2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    row.result = f"accuracy {percent(clean)}, robust {percent(left)}"


def test_what_ours_find_on_an_art_classifier_s_model_art_predicts(interop, images, ours):
    what = f"our PGD-20, Linf {EPS}, on the model of a `PyTorchClassifier`"
    row, _ = interop("ART", "adversarial-robustness-toolbox", what, "art")
    from art.estimators.classification import PyTorchClassifier

    x, y = images
    wrapped = PyTorchClassifier(ours["at"], torch.nn.CrossEntropyLoss(), x.shape[1:], 10, device_type="cpu")
    x_adv = pgd(wrapped.model, x, y, eps=EPS, steps=20, step_size=EPS / 8, generator=seeded())
    left = robust(ours["at"], x_adv, x, y)
    assert (torch.from_numpy(wrapped.predict(x_adv.numpy()).argmax(1)) == y).tolist() == left.tolist()
    row.result = f"robust accuracy {percent(left)}, by ART's own prediction too"


def test_what_ours_find_on_a_foolbox_model_foolbox_predicts(interop, images, ours):
    row, foolbox = interop("Foolbox", "foolbox", f"our PGD-20, Linf {EPS}, through a `PyTorchModel`", "foolbox")
    x, y = images

    class Bound(torch.nn.Module):
        """A foolbox model is no module: it is one as the forward of a module."""

        def __init__(self):
            super().__init__()
            self.wrapped = foolbox.PyTorchModel(ours["corral"], bounds=(0, 1), device="cpu")

        def forward(self, x):
            return self.wrapped(x)

    x_adv = pgd(Bound(), x, y, eps=EPS, steps=20, step_size=EPS / 8, generator=seeded())
    left = robust(ours["corral"], x_adv, x, y)
    accuracy = foolbox.utils.accuracy(foolbox.PyTorchModel(ours["corral"], bounds=(0, 1), device="cpu"), x_adv, y)
    assert accuracy == pytest.approx(float(left.double().mean()))
    row.result = f"robust accuracy {percent(left)}, by foolbox's own accuracy too"


@pytest.mark.parametrize("name", ["timm resnet", "transformers vit"])
def test_our_audit_takes_their_networks(interop, colours, name):
    module, make = MODELS[name]
    what = f"`corral.audit` of its {name.split()[1]}, Linf 16/255, 8 images"
    row, library = interop(module, module, what, module)
    part = Images(*colours)
    data = DataSet("colours", tuple("abcd"), part, part)
    model = trained(make, library, *colours)
    record = corral.audit(model, data, eps="16/255", minutes=3, n=8, progress=False, device="cpu")
    assert record.n_attacked > 0  # all of them on an idle core
    assert record.robust <= record.clean
    row.result = (
        f"verdict {record.verdict}, accuracy {100 * record.clean:.1f}%, robust {100 * record.robust:.1f}% of "
        f"{record.n_attacked}"
    )
