"""A training method of your own, outside the package: logit pairing (Kannan et al. 2018), trained, attacked, reported.

python examples/own_method.py
"""

import torch.nn.functional as F
from torch import Tensor

import corral
from corral.training import InnerAttack


@corral.register
class LogitPairing(corral.Method):
    """Cross-entropy of adversarial images, and the squared distance of their logits to the clean ones."""

    name = "logit-pairing"

    class Options(corral.Method.Options):
        """Every option is a recipe key: `weight=1.0`, `**{"method.inner.steps": 10}`."""

        weight: float = 0.5
        inner: InnerAttack = InnerAttack(steps=5)

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's loss, and what metrics.jsonl has of it beside."""
        x_adv = self.adversarial(self.model, x, y, self.options.inner, "cross_entropy")
        clean, adversarial = self.model(x), self.model(x_adv)
        pairing = (clean - adversarial).square().sum(1).mean()
        return F.cross_entropy(adversarial, y) + self.options.weight * pairing, {"pairing": pairing}


def main(n: int | None = None, **settings: object) -> None:
    """Train it beside adversarial training, and compare them on one page."""
    runs = [
        corral.train(method, data="digits", out=f"runs/{method}", resume="auto", **settings)
        for method in ("logit-pairing", "at")
    ]
    for run in runs:
        print(corral.evaluate(run, n=n))
    print("pairing, epoch by epoch:", [round(epoch["pairing"], 3) for epoch in runs[0].metrics])
    corral.report(runs, out="report.html")


if __name__ == "__main__":
    main()
