"""The number of clusters of a robust classifier of wines, chosen by accuracy under attack in a grid search.

python examples/scikit_learn_search.py
"""

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, train_test_split

import corral
from corral.sklearn import CorralClassifier

EPS = 0.05  # in shares of each feature's range


def robust_accuracy(model: CorralClassifier, X: np.ndarray, y: np.ndarray) -> float:
    """The share of rows that stay right under PGD: a scorer of scikit-learn."""
    labels = torch.from_numpy(np.searchsorted(model.classes_, y))
    x_adv = corral.attacks.pgd(model.model_, model.images(X), labels, eps=EPS, steps=20, step_size=EPS / 8)
    with torch.no_grad():
        return float((model.model_(x_adv).argmax(1) == labels).double().mean())


def main() -> None:
    """Search, and say what was found."""
    X, y = load_wine(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    estimator = CorralClassifier("corral", eps=EPS, epochs=5)
    search = GridSearchCV(estimator, {"clusters": [1, 2]}, scoring=robust_accuracy, cv=2).fit(X, y)
    model = search.best_estimator_
    certified = (model.certified_radius(X_test) > EPS) & (model.predict(X_test) == y_test)
    print(f"best: {search.best_params_}")
    print(f"accuracy {model.score(X_test, y_test):.3f}, under PGD {robust_accuracy(model, X_test, y_test):.3f}")
    print(f"certified at l2 {EPS}: {certified.mean():.3f}")


if __name__ == "__main__":
    main()
