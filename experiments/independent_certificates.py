"""Try to break a run's certificates with Foolbox's attacks, which share no code with corral's.

usage: python experiments/independent_certificates.py RUN [--n 1000] [--first 200] [--data-root DIR]

RUN must have been certified (`corral certify RUN --n N`). DDN, C&W and DeepFool look for the closest misclassified
image; one that is nearer than the certified radius is a violation and makes the exit code 1.
"""

import argparse
import sys
import warnings
from pathlib import Path

import foolbox
import numpy as np
import torch

import corral
from corral.data import load, stratified_subset
from corral.evaluation.certificate import read_certificate
from corral.evaluation.certification import certificate_label
from corral.training import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int)
    parser.add_argument("--first", type=int, default=200, help="number of certified images to attack, from the first")
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="foolbox")
    model = corral.load(given.run)
    name = load_model(given.run)[2].data
    test = load(name, root=given.data_root).test
    label = certificate_label(n=given.n or len(test), n_test=len(test), seed=0)
    certificate = read_certificate(given.run / "certificates" / f"{label}.json")
    with np.load(given.run / "certificates" / f"{label}.npz", allow_pickle=False) as archive:
        radii, ours = archive["radius"], archive["distance"]
    if given.n:
        test = stratified_subset(test, given.n, seed=0)
    rows = np.flatnonzero(radii > 0)[: given.first]
    assert test.labels is not None
    x, y = test.float(torch.from_numpy(rows)), test.labels[rows]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    best = np.full(len(rows), np.inf)
    for attack in (
        foolbox.attacks.DDNAttack(steps=200),
        foolbox.attacks.L2CarliniWagnerAttack(steps=200, binary_search_steps=5),
        foolbox.attacks.L2DeepFoolAttack(steps=100),
    ):
        _, adversarial, _ = attack(wrapped, x, y, epsilons=None)
        with torch.no_grad():
            wrong = (model(adversarial).argmax(1) != y).numpy()
        distances = (adversarial.double() - x.double()).flatten(1).norm(dim=1).numpy()
        best = np.where(wrong, np.minimum(best, distances), best)
        print(f"{type(attack).__name__}: broke {wrong.sum()} of {len(rows)} at some distance")
    violations = int((best < radii[rows]).sum())
    print(
        f"{given.run}: {violations} of {len(rows)} certificates broken; nearest at {np.min(best / radii[rows]):.3f} of "
        f"its radius; corral's own attacks end at {np.median(ours[rows] / best):.3f} of these distances (median); "
        f"Lipschitz bound {certificate.lipschitz:.6g}"
    )
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
