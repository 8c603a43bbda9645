"""The page of a run's analyses: each as a figure, with how to read it and its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from corral.evaluation.analyses import Analysis, AnalysisName
from corral.files import write_atomically
from corral.report.analysis_words import WORDS
from corral.report.template import PACKAGE, filled
from corral.report.words import counted, eps_words, listed, seconds_words
from corral.training import RunInfo

NONE = "–"
# Analyses of training images, of images as they are, and with attacks that look for the nearest misclassified image.
OF_TRAINING: frozenset[AnalysisName] = frozenset({"adversary", "silhouettes"})
UNATTACKED: frozenset[AnalysisName] = frozenset({"bounds", "features", "radii", "silhouettes"})
MINIMAL: dict[str, frozenset[AnalysisName]] = {"DDN": frozenset({"match", "norms"}), "C&W": frozenset({"norms"})}


@dataclass(frozen=True)
class Shown:
    """One analysis on the page: its heading, how to read it, its figure if it has one, and its numbers."""

    title: str
    text: str
    figure: Markup | None
    numbers: tuple[tuple[str, str], ...]


def render_analyses(run: str, info: RunInfo, analyses: Mapping[AnalysisName, Analysis]) -> str:
    """The page as text; equal analyses give equal bytes.

    Args:
        run: the run's name.
        info: of its making.
        analyses: at least one, in the order of the page.
    """
    first = next(iter(analyses.values()))
    e = first.environment
    facts = [
        ("Run", f"{run}, recipe {info.recipe}, seed {info.seed}"),
        ("Data", f"{info.data}, {listed([*_images(analyses)])}"),
        ("Attacks", _attacks(info, analyses)),
        ("Seed", str(first.seed)),
        ("Model fingerprint", first.model_fingerprint),
        ("Time", seconds_words(sum(analysis.seconds for analysis in analyses.values()))),
        ("Versions", f"corral {e.corral}, torch {e.torch}, Python {e.python}, {e.platform}"),
        ("Device", f"{e.device}, {counted(e.threads, 'thread')}"),
    ]
    return filled(
        PACKAGE,
        "analysis_page.html",
        run=run,
        info=info,
        shown=[_shown(analysis, info.classes) for analysis in analyses.values() if analysis.name in WORDS],
        facts=facts,
    )


def _images(analyses: Mapping[AnalysisName, Analysis]) -> Iterator[str]:
    """How many images of which kind were measured."""
    test = [analysis.n for name, analysis in analyses.items() if name not in OF_TRAINING]
    train = [analysis.n for name, analysis in analyses.items() if name in OF_TRAINING]
    if test:
        yield f"{counted(test[0], 'test image')} (class-balanced)"
    if train:
        yield f"{counted(train[0], 'training image')}"


def _attacks(info: RunInfo, analyses: Mapping[AnalysisName, Analysis]) -> str:
    """What moved images."""
    first = next(iter(analyses.values()))
    parts = []
    if set(analyses) - UNATTACKED:
        parts.append(f"PGD at {info.norm} eps {eps_words(first.eps)}")
    without = [attack for attack, users in MINIMAL.items() if users & set(analyses)]
    if without:
        parts.append(f"{' and '.join(without)} without a limit")
    return "; ".join(parts) or "none"


def write_analysis_page(run: str, info: RunInfo, analyses: Mapping[AnalysisName, Analysis], out: Path) -> None:
    """Write the page, in one step; an older one there is replaced.

    Raises:
        CorralError: the page cannot be written.
    """
    write_atomically(out, render_analyses(run, info, analyses).encode())


def analysis_lines(analysis: Analysis) -> list[tuple[str, str]]:
    """The numbers of an analysis with their names, as shown."""
    words = WORDS[analysis.name]
    return [
        (title, f"{scale * analysis.numbers[number]:.{digits}f}{'%' if scale == 100 and '%' not in title else ''}")
        for title, number, scale, digits in words.columns
        if number in analysis.numbers
    ]


def _shown(analysis: Analysis, classes: list[str]) -> Shown:
    words = WORDS[analysis.name]
    figure = _figure(analysis, classes)
    return Shown(words.title, words.text, None if figure is None else Markup(figure), tuple(analysis_lines(analysis)))


def _figure(analysis: Analysis, classes: list[str]) -> str | None:
    # Imported late: matplotlib takes longer than the rest of the page.
    from corral.report import analysis_figures as draw

    name, numbers, series = analysis.name, analysis.numbers, analysis.series
    words = {"name": name, "description": WORDS[name].title}
    if name == "embedding":
        return draw.embedding_figure(series, **words)
    if name == "cosine":
        kinds = {
            title: (series[f"{key} by class"], series[f"{key} sd by class"])
            for title, key in (("clean", "clean"), ("PGD", "pgd"))
        }
        return draw.classes_figure(kinds, classes, unit="cosine, by predicted class", **words)
    if name == "norms":
        found = {"C&W": series["cw distances"], "DDN": series["ddn distances"]}
        return draw.left_figure(found, max(1, round(numbers["right"])), **words)
    if name in ("match", "features"):
        columns = [column for column in WORDS[name].columns if column[2] == 100]
        return draw.shares_figure({title: numbers[key] for title, key, *_ in columns if key in numbers}, **words)
    if name == "silhouettes":
        return draw.curve_figure(series["k"], series["width"], xlabel="clusters K", ylabel="mean silhouette", **words)
    if name == "pursuit":
        pushes = {"noise": "noise", "toward": "pursuit", "away": "away", "both": "both", "with labels": "labelled"}
        broken = {title: numbers[f"{key} success"] for title, key in pushes.items() if f"{key} success" in numbers}
        return draw.shares_figure(broken, **words) if broken else None
    if name == "compactness":
        kept = {title: numbers[key] for title, key, *_ in WORDS[name].columns if key in numbers and "silh" in key}
        return draw.widths_figure(kept, **words)
    if name == "bounds" and {"lower", "upper", "pair_unsound", "exact"} <= numbers.keys():
        marks = {"published radius": numbers["pair_unsound"], "exact radius": numbers["exact"]}
        row = draw.Range("this run", numbers["lower"], numbers["upper"], marks)
        return draw.ranges_figure([row], unit="median, in units of σ", **words)
    return None
