"""A trained run with another decision rule on the same clusters: what an ablation of the rule measures."""

from pathlib import Path

from corral.errors import UsageError
from corral.files import write_atomically
from corral.models.fingerprint import fingerprint
from corral.models.heads import HeadRule
from corral.training import RunFolder, load_model
from corral.training.run import save_model


def with_assignment(run: RunFolder, rule: HeadRule) -> RunFolder:
    """The run beside `run` whose cluster head decides by `rule`; made where it is missing.

    Args:
        run: a finished run with a cluster head.
        rule: "soft", "nearest", "fuzzy", or D for the D nearest clusters.

    Raises:
        UsageError: a linear head, or more clusters than there are.
        CorralError: no finished run, or it cannot be written.
    """
    model, spec, info = load_model(run.path)
    clusters = model.head.clusters
    if clusters is None:
        raise UsageError(f"{run.path}: a {model.head.name} head has no decision rule to change")
    if isinstance(rule, int) and rule > len(clusters.centroids):
        raise UsageError(f"{run.path}: rule {rule} keeps more clusters than the {len(clusters.centroids)} there are")
    out = RunFolder(Path(f"{run.path}-rule-{rule}-{fingerprint(model)[:8]}"))
    if not out.model.is_file():
        model.head.rule = rule
        write_atomically(out.recipe, run.recipe.read_bytes())
        save_model(out.model, model.state_dict(), spec.with_head(model.head), info)
    return out
