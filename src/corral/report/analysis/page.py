"""The page of a run's analyses: each as a figure, with how to read it and its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from corral.analysis import Analysis
from corral.analysis.registry import described
from corral.report.analysis.registry import figures_of
from corral.report.template import documents, filled
from corral.report.words import counted, environment_facts, eps_words, listed, seconds_words, slug
from corral.training import RunInfo


@dataclass(frozen=True)
class Foreign:
    """What a page says of a model that corral did not train.

    Attributes:
        data: the data set's name.
        classes: the class names.
        norm: of the attacks.
    """

    data: str
    classes: list[str]
    norm: str


def render_analyses(run: str, info: RunInfo | Foreign, analyses: Mapping[str, Analysis]) -> str:
    """The page as text; equal analyses give equal bytes.

    Args:
        run: the model's name.
        info: of its making, or what is known of another model than a run.
        analyses: at least one, in the order of the page.
    """
    first = next(iter(analyses.values()))
    facts = [
        ("Model", run if isinstance(info, Foreign) else f"{run}, recipe {info.recipe}, seed {info.seed}"),
        ("Data", f"{info.data}, {listed([*_images(analyses)])}"),
        ("Attacks", _attacks(info, analyses)),
        ("Seed", str(first.seed)),
        ("Model fingerprint", first.model_fingerprint),
        ("Time", seconds_words(sum(analysis.seconds for analysis in analyses.values()))),
        *environment_facts(first.environment),
    ]
    return filled(
        "corral.report.analysis",
        "page.html",
        run=run,
        recipe=None if isinstance(info, Foreign) else info.recipe,
        data=info.data,
        shown=[_shown(analysis, info.classes) for analysis in analyses.values()],
        facts=facts,
        documents=documents(analyses.items()),
        edited=[name for analysis in analyses.values() for name in analysis.edited],
    )


def _images(analyses: Mapping[str, Analysis]) -> Iterator[str]:
    """How many images of which kind were measured."""
    test = [analysis.n for name, analysis in analyses.items() if described(name).images == "test"]
    train = [analysis.n for name, analysis in analyses.items() if described(name).images == "train"]
    if test:
        yield f"{counted(test[0], 'test image')} (class-balanced)"
    if train:
        yield f"{counted(train[0], 'training image')}"


def _attacks(info: RunInfo | Foreign, analyses: Mapping[str, Analysis]) -> str:
    """What moved images."""
    first = next(iter(analyses.values()))
    kinds = [described(name) for name in analyses]
    within = dict.fromkeys(attack for kind in kinds for attack in kind.attacks)
    minimal = dict.fromkeys(attack for kind in kinds for attack in kind.minimal_attacks)
    parts = [f"{listed([*within])} at {info.norm} eps {eps_words(first.eps)}"] if within else []
    if minimal:
        parts.append(f"{listed([*minimal])} without a limit")
    return "; ".join(parts) or "none"


def analysis_lines(analysis: Analysis) -> list[tuple[str, str]]:
    """The numbers of an analysis with their names, as shown, and why others could not be computed."""
    columns = described(analysis.name).columns
    if not columns:
        return [(name, f"{value:.4g}") for name, value in analysis.numbers.items()]
    lines = []
    for title, number, scale, digits in columns:
        if number in analysis.numbers:
            percent = "%" if scale == 100 and "%" not in title else ""
            lines.append((title, f"{scale * analysis.numbers[number]:.{digits}f}{percent}"))
        elif number in analysis.absent:
            lines.append((title, f"not measured: {analysis.absent[number]}"))
    return lines


def _shown(analysis: Analysis, classes: list[str]) -> dict[str, Any]:
    """One analysis on the page: its heading, how to read it, its figures with captions, and its numbers."""
    kind = described(analysis.name)
    figures = figures_of(analysis.name, {"this run": [analysis]}, classes, name=analysis.name)
    return {
        "name": slug(analysis.name),
        "title": kind.title,
        "text": kind.text,
        "figures": figures,
        "numbers": analysis_lines(analysis),
    }
