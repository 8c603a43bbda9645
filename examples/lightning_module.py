"""corral's method as a PyTorch Lightning module, with the functions of own_loop.py.

python examples/lightning_module.py
"""

import lightning
import torch
from own_loop import batch_loss, refit
from torch import nn

import corral


class Clustered(lightning.LightningModule):
    """A classifier with a cluster head; its batches are indices, because a batch needs the clusters of its images."""

    def __init__(self, model: corral.Classifier, images: corral.data.Images, clusters: int, eps: float) -> None:
        super().__init__()
        self.model, self.images, self.clusters, self.eps = model, images, clusters, eps

    def on_fit_start(self) -> None:
        """The first clusters, of the images on the module's device; Lightning leaves a module's mode as it was."""
        self.model.train()
        self.images = self.images.to(self.device)
        self.assigned = refit(self.model, self.images, self.clusters)

    def training_step(self, i: torch.Tensor) -> torch.Tensor:
        """The loss of a batch."""
        loss = batch_loss(self.model, self.images.float(i), self.images.labels[i], self.assigned[i], eps=self.eps)
        self.log("loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """The clusters of the epoch's features."""
        self.assigned = refit(self.model, self.images, self.clusters)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The temperature has its own learning rate."""
        temperature = {"params": [self.model.head.log_temperature.requires_grad_()], "lr": 2e-2}
        return torch.optim.Adam([{"params": self.model.backbone.parameters()}, temperature], lr=2e-3)


def main(epochs: int = 5, n: int | None = None, **options: object) -> None:
    """Train on digits, and attack."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    digits = corral.data.load("digits")
    module = Clustered(corral.cluster(network, digits, clusters=2), digits.train, clusters=2, eps=0.1)
    loader = torch.utils.data.DataLoader(range(len(digits.train)), batch_size=60, shuffle=True)
    lightning.Trainer(max_epochs=epochs, **options).fit(module, loader)
    print(corral.evaluate(module.model.eval(), digits, threat=("Linf", 0.1), n=n))


if __name__ == "__main__":
    main()
