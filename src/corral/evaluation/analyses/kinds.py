"""Every analysis by its name."""

from collections.abc import Callable

from corral.evaluation.analyses.adversary import training_adversary
from corral.evaluation.analyses.along import along_the_attack
from corral.evaluation.analyses.bounds import radius_bounds
from corral.evaluation.analyses.changes import one_change
from corral.evaluation.analyses.compactness import compactness
from corral.evaluation.analyses.cosine import centre_cosine
from corral.evaluation.analyses.document import Analysis, AnalysisName, Subject
from corral.evaluation.analyses.embedding import embedding
from corral.evaluation.analyses.features import clusters_in_features
from corral.evaluation.analyses.match import match_rate
from corral.evaluation.analyses.norms import minimal_norms
from corral.evaluation.analyses.pursuit import neighbour_pursuit
from corral.evaluation.analyses.radii import planar_radii
from corral.evaluation.analyses.silhouettes import silhouettes

ANALYSES: dict[AnalysisName, Callable[[Subject], Analysis]] = {
    "along": along_the_attack,
    "changes": one_change,
    "adversary": training_adversary,
    "features": clusters_in_features,
    "bounds": radius_bounds,
    "radii": planar_radii,
    "match": match_rate,
    "cosine": centre_cosine,
    "compactness": compactness,
    "embedding": embedding,
    "norms": minimal_norms,
    "silhouettes": silhouettes,
    "pursuit": neighbour_pursuit,
}
