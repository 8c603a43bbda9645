"""Hugging Face's datasets as data, and Lightning's loop around a classifier and an attack of ours."""

import numpy as np
import pytest
import torch
from tests.interop.shared import EPS, percent, robust
from tests.models.test_export import classifier

from corral.attacks import pgd
from corral.data import from_arrays, load
from corral.models import LinearHead

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_images_of_a_hugging_face_dataset_are_the_same_data(interop):
    what = "columns of images and labels (`with_format('numpy')`) through `corral.data.from_arrays`"
    row, datasets = interop("datasets", "datasets", what, "datasets")
    part = load("digits").train
    x, y = part.pixels[:60, 0].numpy(), part.labels[:60].numpy()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    table = datasets.Dataset.from_dict({"image": list(x), "label": y}, features=features).with_format("numpy")
    found, labels = np.stack([one["image"] for one in table]), table["label"][:]
    theirs = from_arrays(found, labels, found, labels, name="theirs", classes=10)
    assert theirs.fingerprint == from_arrays(x, y, x, y, name="ours", classes=10).fingerprint
    row.result = "the same fingerprint as the arrays"


def test_lightning_trains_a_classifier_against_our_attack(interop, images):
    what = f"a `LightningModule` whose `training_step` attacks a `Classifier` by our PGD-5, Linf {EPS}, on digits"
    row, lightning = interop("Lightning", "lightning", what, "lightning")

    class Robust(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = classifier("convnet", "linear")
            self.model.head = LinearHead(self.model.features_dim, 10)

        def training_step(self, batch, _):
            x, y = batch
            x_adv = pgd(self.model, x, y, eps=EPS, steps=5, step_size=EPS / 4, keep="last")
            return torch.nn.functional.cross_entropy(self.model(x_adv), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    part = load("digits").train
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(part.float(), part.labels), 60, shuffle=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Robust()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        lightning.Trainer(max_epochs=4, accelerator="cpu", devices=1, enable_model_summary=False, **quiet).fit(
            module, loader
        )
    model, (x, y) = module.model.eval(), images
    left = robust(model, pgd(model, x, y, eps=EPS, steps=20, step_size=EPS / 8, random_start=False), x, y)
    assert float(left.double().mean()) > 0.3
    row.result = f"accuracy {percent(robust(model, x, x, y))}, robust {percent(left)}"
