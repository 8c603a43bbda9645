"""Every page of the package, each made of a synthetic record."""

from pathlib import Path
from typing import Any

import numpy as np
from tests.report.conftest import make_arrays, make_attack, make_record
from tests.report.test_audit_page import make_audit

import corral
from corral.analysis import Analysis
from corral.documents import write_document
from corral.evaluation.certificate import Certificate, CertifiedAt, CertifyingAttack, LayerConstant
from corral.records import Reported
from corral.report import report
from corral.report.analysis.page import Foreign, render_analyses
from corral.report.audit.page import render_audit
from corral.report.certificate.page import render_certificate
from corral.report.table.page import ColumnGroup, Overview, PartTable, TablePage, render
from corral.report.table.sections import Section

PAGES = ("report", "leaderboard", "audit", "certificate", "vacuous", "analysis", "table")
ATTACKS = {
    "nominal": {"pgd_published": 0.3, "pgd_ce": 0.05, "worst_case": 0.05},
    "clusters": {"pgd_published": 0.744, "pgd_ce": 0.1, "worst_case": 0.0425},
    "at": {"pgd_published": 0.5, "pgd_ce": 0.48, "worst_case": 0.46},
}
ENVIRONMENT = make_record().environment


def write_pages(base: Path) -> None:
    """Write each of `PAGES` into a folder, with the runs and the CSV file that belong to them."""
    runs = [_run(base, name, attacks) for name, attacks in ATTACKS.items()]
    report(runs, out=base / "report.html")
    other = _run(base, "elsewhere", {"pgd_ce": 0.3, "worst_case": 0.3}, eps=0.1)
    corral.compare([*runs, other], out=base / "leaderboard.html", csv=base / "leaderboard.csv")
    written = {
        "audit": render_audit(make_audit()),
        "certificate": render_certificate(_certificate(0.6)),
        "vacuous": render_certificate(_certificate(0.0)),
        "analysis": render_analyses("net", Foreign("digits", ["zero", "one", "two"], "Linf"), _analyses()),
        "table": render(_table()),
    }
    for name, text in written.items():
        (base / f"{name}.html").write_text(text)


def _run(base: Path, name: str, attacks: dict[str, float], eps: float = 0.2) -> Path:
    changes: dict[str, Any] = {"head": "linear", "rule": None} if name != "clusters" else {}
    if name == "clusters":
        changes["reported"] = Reported(clean=0.91, robust=0.744, attack="PGD-20", source="a paper")
    made = [
        make_attack(attack, accuracy, eps=eps, seconds=1.5 + place)
        for place, (attack, accuracy) in enumerate(attacks.items())
    ]
    record = make_record(name, {}, eps=eps, **changes).model_copy(update={"attacks": made})
    write_document(record, base / name / "records" / "quick.json")
    np.savez(base / name / "records" / "quick.npz", **make_arrays(clusters=4 if name == "clusters" else 0))
    return base / name


def _certificate(certified: float) -> Certificate:
    points = [
        CertifiedAt(radius=radius, certified=certified * (radius < 0.4), attacked=0.8) for radius in (0.1, 0.3, 0.5)
    ]
    facts = make_record().model_dump(include={"run", "recipe", "method", "head", "rule", "data", "data_fingerprint"})
    return Certificate(
        **facts, model_fingerprint="f", n=400, n_test=400, train_seed=0, train_seconds=1,
        created="2026-01-02T03:04:05Z", environment=ENVIRONMENT, clean=0.9, lipschitz=2.5,
        layers=[LayerConstant(name="conv", bound=2.5, how="exact")],
        at=[CertifiedAt(radius=0, certified=0.9, attacked=0.9), *points], curve=points, median=0.35 * (certified > 0),
        below_next=0.0, attacks=[CertifyingAttack(name="DDN", description="a search", settings={}, seconds=1)],
        broken=0, seed=0, certify_seconds=2,
    )  # fmt: skip


def _analyses() -> dict[str, Analysis]:
    draw = np.random.default_rng(0)
    plane = {name: tuple(draw.normal(size=60).tolist()) for name in ("first", "second")}
    kinds = {name: tuple(float(i % 3) for i in range(60)) for name in ("label", "predicted")}
    series = {
        "embedding": {**plane, **kinds, "attacked": tuple(float(i >= 30) for i in range(60))},
        "norms": {
            "cw distances": tuple(i / 50 for i in range(300)),
            "ddn distances": tuple(i / 60 for i in range(300)),
        },
    }
    numbers = {"embedding": {"images": 30.0, "perplexity": 30.0}, "norms": {"right": 300.0}}
    return {
        name: Analysis(
            name=name, model_fingerprint="f", data="digits", n=60, eps=0.1, seed=0, numbers=numbers[name],
            series=series[name], seconds=1, environment=ENVIRONMENT,
        )
        for name in series
    }  # fmt: skip


def _table() -> TablePage:
    groups = (
        ColumnGroup("No attack", (("Clean, published on CIFAR-10", "published"), ("Clean, ours", "ours"))),
        ColumnGroup(
            "At the training eps", (("PGD, published", "published"), ("PGD, ours", "ours"), ("sound, ours", "sound"))
        ),
    )
    long = "a method whose name is much longer than twenty-six characters"
    part = PartTable(
        data="mnist", beside="CIFAR-10", threat="Linf eps 0.1", reading="Ours on mnist.", groups=groups,
        rows=(
            ("AT", "87.3", "98.0 ± 0.1", "52.1", "93.1 ± 0.2", "92.0 ± 0.3"),
            (long, "–", "97.0", "–", "90.0", "89.5"),
        ),
        meanings=("Sound: AutoAttack.",), remarks=(),
        overview=Overview("Ours.", "Accuracy", (("AT", (0.98, 0.93, 0.92)), (long, (0.97, 0.9, 0.895))),
                          ("Clean", "PGD", "sound"), 0.1),
        sections=(Section("Against AT", "In points.", ("Method", "sound"), ((long, "▼ -2.5 ± 0.4"),), "points"),),
    )  # fmt: skip
    return TablePage("demo", "small", "A table", "A paper", "", "corral reproduce demo", (part,), "Made now.", "none")
