"""What the analyses are called, how they are read, and which of their numbers are shown: the same on every page."""

from dataclasses import dataclass

from corral.evaluation.analyses.document import AnalysisName


@dataclass(frozen=True)
class AnalysisWords:
    """An analysis for a reader.

    Attributes:
        short: its name over columns of a table.
        title: what it asks.
        text: what was done and how to read it.
        columns: heading, number, the factor to show it with, and decimals.
        unit: of the numbers, over the seeds of a table.
    """

    short: str
    title: str
    text: str
    columns: tuple[tuple[str, str, float, int], ...]
    unit: str


WORDS: dict[AnalysisName, AnalysisWords] = {
    "features": AnalysisWords(
        short="Read off the features",
        title="What clusters read off the features",
        text="Test accuracy on the frozen features of each run: by logistic regression, by k-means centroids of the "
        "training features (two a class), and by as many clusters found without labels, each given the class of most "
        "of its members.",
        columns=(
            ("linear probe", "linear", 100.0, 1),
            ("2 centroids a class, nearest", "nearest", 100.0, 1),
            ("the same, soft (Eq. 4)", "soft", 100.0, 1),
            ("the same, released float32 scores", "published", 100.0, 1),
            ("k-means without labels, majority class", "majority", 100.0, 1),
        ),
        unit="percent of the test images; mean ± sd over seeds",
    ),
    "adversary": AnalysisWords(
        short="The adversary in training",
        title="What QTRADES' adversary is in training",
        text="On training images: one step of 1.25 eps from uniform noise, up the released code's consistency term "
        "(exponentiated scores) or up the same in log space; both measured by KL(p(x) ‖ p(x′)) in log space, so that "
        "noise and a step along random signs can stand beside them. “Way gone” is the share of the way from noise to "
        "20 log-space steps.",
        columns=(
            ("noise", "kl noise", 1.0, 3),
            ("random step", "kl random step", 1.0, 3),
            ("released step", "kl released", 1.0, 3),
            ("log-space step", "kl log", 1.0, 3),
            ("20 log-space steps", "kl strong", 1.0, 3),
            ("way gone, released, %", "share released", 100.0, 0),
            ("way gone, log space, %", "share log", 100.0, 0),
            ("gradient exactly 0, released, %", "zero released", 100.0, 1),
            ("pixels of one sign, %", "alike", 100.0, 1),
            ("right after noise, %", "right noise", 100.0, 1),
            ("after released step, %", "right released", 100.0, 1),
            ("after log-space step, %", "right log", 100.0, 1),
            ("after 20 steps, %", "right strong", 100.0, 1),
        ),
        unit="mean KL in nats, or percent as the column says; mean ± sd over seeds",
    ),
    "bounds": AnalysisWords(
        short="Bounds",
        title="The critique's bounds (Eq. 3) and what they leave open",
        text="Medians over the test images that the nearest centroid classifies right, in units of σ and in feature "
        "space: divided by the backbone's Lipschitz constant they would be radii in pixels. More clusters bring the "
        "own centroid nearer (d) and the rival too (d′). The published radius looks at one pair of centroids alone, "
        "the exact one is the distance to the nearest point that another class decides: where the published one is "
        "larger (by over 0.1%), it promises too much.",
        columns=(
            ("clusters", "clusters", 1.0, 0),
            ("right by the nearest centroid, %", "accuracy", 100.0, 1),
            ("d", "own", 1.0, 3),
            ("d′", "rival", 1.0, 3),
            ("lower bound", "lower", 1.0, 3),
            ("published radius", "pair_unsound", 1.0, 3),
            ("upper bound", "upper", 1.0, 3),
            ("exact radius", "exact", 1.0, 3),
            ("published one too large, % of images", "too_large", 100.0, 1),
        ),
        unit="medians over images in units of σ; mean ± sd over seeds",
    ),
    "radii": AnalysisWords(
        short="Radii",
        title="Certified and true radii",
        text="Medians over the test points that are classified right, in l2. The Lipschitz constant is exact to 0.1%, "
        "by branch and bound on the unit square; “global” is the distance to the decision's boundary in feature space "
        "over it (Theorem 1), “local” uses the constant around each point, “true” is the nearest point of a grid of "
        "801 × 801 that is decided otherwise. “Room” is true over global.",
        columns=(
            ("accuracy, %", "accuracy", 100.0, 1),
            ("Lipschitz constant", "lipschitz", 1.0, 1),
            ("global radius", "global", 1.0, 4),
            ("local radius", "local", 1.0, 4),
            ("true radius", "true", 1.0, 4),
            ("room", "room", 1.0, 2),
        ),
        unit="medians over points; mean ± sd over seeds",
    ),
    "match": AnalysisWords(
        short="Match rate",
        title="Do near features mean the same decision?",
        text="MAT's match rate: Ward's clusters of the clean features, as many as classes; the share of images whose "
        "predicted class is the dominant one of the cluster with the nearest mean. Under DDN, of the images that it "
        "broke. A low rate under attack means that adversarial images lie among features of the class that they left.",
        columns=(
            ("clean", "clean", 100.0, 1),
            ("PGD", "pgd", 100.0, 1),
            ("DDN", "ddn", 100.0, 1),
            ("clusters", "clusters", 1.0, 0),
        ),
        unit="percent of the test images; mean ± sd over seeds",
    ),
    "cosine": AnalysisWords(
        short="Cosine to the predicted class's centre",
        title="Cosine to the predicted class's centre",
        text="Mean of the cosine between features and the nearest centre of the class that they are decided for, at "
        "the mean of all centres; its standard deviation over the classes' own means, as MAT's text has it, and over "
        "all images. A linear head's centres are its classes' mean training features. High under attack too: the "
        "attack moves features all the way into another cluster.",
        columns=(
            ("clean", "clean", 1.0, 3),
            ("sd of classes", "clean sd of classes", 1.0, 3),
            ("sd of images", "clean sd", 1.0, 3),
            ("PGD", "pgd", 1.0, 3),
            ("sd of classes, PGD", "pgd sd of classes", 1.0, 3),
            ("sd of images, PGD", "pgd sd", 1.0, 3),
        ),
        unit="cosines; mean ± sd over seeds",
    ),
    "compactness": AnalysisWords(
        short="Compactness",
        title="How compact are the classes?",
        text="Silhouette width (1: every image is far nearer to its own class than to any other; 0: between two; "
        "below: nearer to another) and variance within over variance between classes, of clean features and under PGD.",
        columns=(
            ("silhouette, clean", "silhouette clean", 1.0, 3),
            ("silhouette, PGD", "silhouette pgd", 1.0, 3),
            ("by predicted class, clean", "silhouette predicted clean", 1.0, 3),
            ("by predicted class, PGD", "silhouette predicted pgd", 1.0, 3),
            ("within / between, clean", "ratio clean", 1.0, 3),
            ("within / between, PGD", "ratio pgd", 1.0, 3),
        ),
        unit="mean ± sd over seeds",
    ),
    "norms": AnalysisWords(
        short="Distance of the closest misclassified image",
        title="How far is the closest misclassified image?",
        text="l2 distances found by Carlini and Wagner's attack and by DDN, of the images that are classified right "
        "without attack and that it broke. They are upper bounds of the true distances: a masked gradient makes them "
        "larger, not the model safer.",
        columns=(
            ("C&W, mean", "cw", 1.0, 3),
            ("C&W, median", "cw median", 1.0, 3),
            ("broken, %", "cw broken", 100.0, 1),
            ("DDN, mean", "ddn", 1.0, 3),
            ("DDN, median", "ddn median", 1.0, 3),
            ("broken by DDN, %", "ddn broken", 100.0, 1),
        ),
        unit="l2 in pixels of [0, 1]; mean ± sd over seeds",
    ),
    "silhouettes": AnalysisWords(
        short="Silhouette",
        title="How many clusters do the features have?",
        text="Mean silhouette width (cosine distance, exact) of spherical k-means of the training images' features, "
        "against the number of clusters. NCP-ACL takes the K of the largest width; where the curve is flat, the choice "
        "says little.",
        columns=(("best K", "best", 1.0, 0), ("its width", "width", 1.0, 3)),
        unit="widths in [-1, 1]; mean ± sd over seeds",
    ),
    "pursuit": AnalysisWords(
        short="Pursuit of a neighbour",
        title="Does a push toward a neighbouring cluster cross the boundary?",
        text="Of the test images classified right, from one uniform start each: how far the probability of the true "
        "class falls and how many are misclassified by that noise, by five steps toward the second nearest centroid, "
        "away from the nearest, both, and up the cross-entropy. Only the last knows labels; the nearer the others come "
        "to it, the better clusters stand in for them.",
        columns=(
            ("classified right", "right", 1.0, 0),
            ("clusters", "clusters", 1.0, 0),
            ("noise: probability less", "noise decrease", 100.0, 1),
            ("misclassified", "noise success", 100.0, 1),
            ("toward: probability less", "pursuit decrease", 100.0, 1),
            ("misclassified, toward", "pursuit success", 100.0, 1),
            ("misclassified, away", "away success", 100.0, 1),
            ("misclassified, both", "both success", 100.0, 1),
            ("misclassified, with labels", "labelled success", 100.0, 1),
        ),
        unit="percent; mean ± sd over seeds",
    ),
    "embedding": AnalysisWords(
        short="Features in the plane",
        title="Features in the plane",
        text="t-SNE of clean (dots) and PGD-attacked (triangles) test features in one embedding, by true and by "
        "predicted class. Triangles of one colour on the left and another on the right have changed their class; where "
        "they lie among dots of their new colour, the attack moves features into a cluster. Sizes of groups and "
        "distances between far ones mean nothing.",
        columns=(("images", "images", 1.0, 0), ("perplexity", "perplexity", 1.0, 0)),
        unit="counts",
    ),
}
