"""The page of an audit: every number and finding of the record stands on it, and it needs nothing else."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from corral.audit.diagnostics.diagnose import CHECKS
from corral.audit.diagnostics.findings import Finding
from corral.audit.record import AuditAttack, AuditRecord
from corral.records import Environment
from corral.report.audit.page import audit_verdict, render_audit
from corral.report.audit.thresholds import THRESHOLDS
from corral.report.template import page_script
from corral.report.words import attack_title

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects text, table rows, findings and what could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.text, self.outside, self.scripts = "", [], []
        self.opened: list[bool] = []
        self.rows: list[list[str]] = []
        self.findings: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.outside += [value for key, value in attributes if key in ("src", "href") and value[0] != "#"]
        if tag == "script":
            self.scripts.append(named)
        if tag == "details" and "article" in [name for name, _ in self.open]:
            self.opened.append("open" in named)
        if tag not in VOID:
            self.open.append((tag, named.get("class") or ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "article":
            self.findings.append(((named["class"] or "").split()[1], ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "style" in tags or "script" in tags:
            return
        self.text += data
        if "td" in tags or "th" in tags:
            self.rows[-1][-1] += data
        if "article" in tags:
            kind, text = self.findings[-1]
            self.findings[-1] = kind, text + data


def make_finding(name: str, verdict: str, value: float | None = 0.125, remedy: str = "") -> Finding:
    return Finding(
        name=name,
        title=f"Title of {name}",
        value=value,
        verdict=verdict,
        explanation=f"Why {name} is {verdict}.",
        remedy=remedy,
        n=0 if value is None else 77,
        seconds=1.25,
    )


def make_audit(**changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "target": "models.py:load",
        "kind": "python",
        "preparation": ["--normalise cifar10"],
        "data": "cifar10",
        "data_note": "official",
        "data_fingerprint": "d1d2d3",
        "image_shape": (3, 32, 32),
        "classes": 10,
        "class_names": list("abcdefghij"),
        "norm": "Linf",
        "eps": 8 / 255,
        "seed": 4,
        "n_data": 10000,
        "n_asked": 1000,
        "n_clean": 1000,
        "n_attacked": 200,
        "reduced": True,
        "minutes": 30,
        "seconds": 1790.5,
        "diagnostics_seconds": 312.5,
        "clean": 0.8123,
        "clean_attacked": 0.82,
        "robust": 0.43,
        "robust_error": 0.035,
        "attacks": [
            AuditAttack(
                name=name,
                description=f"What {name} does",
                given=given,
                broken=broken,
                accuracy=left,
                forwards=given * 101,
                backwards=given * 100,
                seconds=33.25,
            )
            for name, given, broken, left in (("apgd-ce", 164, 70, 0.47), ("square", 94, 8, 0.43))
        ],
        "inputs": [make_finding("fed", "ok")],
        "findings": [
            make_finding("falling", "ok"),
            make_finding("slow", "skipped", None, "More time."),
            make_finding("range", "note", 3.0, "Look at <it>."),
        ],
        "verdict": "pass",
        "notes": ["one more image may have taken 41 s"],
        "created": "2026-01-02T03:04:05Z",
        "environment": Environment(
            corral="0.1.0", torch="2.13.0", python="3.11.9", device="cpu (x86_64)", threads=2, platform="Linux"
        ),
    }
    return AuditRecord(**(values | changes))


def masked(**changes: Any) -> AuditRecord:
    return make_audit(findings=[make_finding("zero", "masked", 0.9, "Attack the logits.")], verdict="masked", **changes)


def whole(**changes: Any) -> AuditRecord:
    return make_audit(n_asked=200, n_clean=200, reduced=False, **changes)


UNATTACKED = {"n_attacked": 0, "robust": None, "robust_error": None, "clean_attacked": None, "attacks": []}


def test_the_verdict_says_what_was_found_and_on_how_many_images() -> None:
    threat = "43.0% ± 3.5 of 200 images are robust to AutoAttack standard at Linf eps 8/255"
    verdict = audit_verdict(make_audit())
    assert verdict.headline == "Pass: no sign of masked gradients in the 2 of 3 checks that were made."
    assert verdict.sentences == (
        f"{threat}.",
        "Without attack it classifies 81.2% of 1,000 images right.",
        "Not measured: “Title of slow”.",
    )
    verdict = audit_verdict(masked())
    assert verdict.headline.startswith("Masked: gradient attacks on this model mislead")
    assert verdict.sentences[:2] == (
        "What says so: “Title of zero”.",
        f"{threat}; take it for an upper bound that may lie far above the true one.",
    )
    broken = audit_verdict(masked(robust=0.0, attacks=[]))
    assert broken.sentences[1] == "0.0% ± 3.5 of 200 images are robust to AutoAttack standard at Linf eps 8/255."
    unmeasured = audit_verdict(make_audit(findings=[make_finding("falling", "ok")], **UNATTACKED))
    assert unmeasured.headline == "Pass: no sign of masked gradients."
    assert unmeasured.sentences[0] == "Robust accuracy at Linf eps 8/255 was not measured."


@pytest.mark.parametrize("make", [make_audit, masked, whole])
def test_every_number_of_the_record_stands_on_the_page(make: Callable[[], AuditRecord]) -> None:
    record = make()
    page = Page(render_audit(record))
    assert audit_verdict(record).headline in page.text
    attacks, checks = page.rows[:4], page.rows[4:]
    assert attacks == [
        [
            "Measured",
            "Accuracy, %",
            "Of all attacked images",
            "Given",
            "Misclassified",
            "Forward/backward passes an image",
            "Time",
        ],
        ["Clean accuracy", "82.0", "", "200", "–", "1", "–"],
        [f"Robust accuracy after {attack_title('apgd-ce')}", "47.0", "", "164", "70", "201", "33.2 s"],
        [f"Robust accuracy after {attack_title('square')}", "43.0", "", "94", "8", "201", "33.2 s"],
    ]
    assert checks[0] == ["Check", "Verdict", "Value", "Thresholds", "Images", "Time"]
    assert len(checks) == 1 + len(record.inputs) + len(record.findings)
    for text in ("What apgd-ce does", "cifar10 (official)", "d1d2d3", "--normalise cifar10", "torch 2.13.0", "3 × 32"):
        assert text in page.text
    assert "One more image may have taken 41 s" in page.text


def test_findings_come_by_weight_with_value_explanation_and_remedy() -> None:
    page = Page(render_audit(make_audit()))
    assert [kind for kind, _ in page.findings] == ["note", "skipped", "ok", "ok"]
    note, skipped, fed, _ = (" ".join(text.split()) for _, text in page.findings)
    assert page.opened == [True, True, False, False]
    assert note == "Title of range note Why range is note. Remedy: Look at <it>. Value 3 on 77 images, 1.2 s"
    assert skipped == "Title of slow not measured Why slow is skipped. Remedy: More time. Value –, 1.2 s"
    assert "Remedy" not in fed
    assert (
        "Value 12.5% on 77 images; thresholds: note from 2% more if fed otherwise, refused from 10% more, 1.2 s" in fed
    )
    assert [kind for kind, _ in Page(render_audit(masked())).findings] == ["masked", "ok"]


def test_every_check_has_its_thresholds_and_they_are_those_that_it_judges_by() -> None:
    assert set(THRESHOLDS) == {"fed", "autoattack_square", *(check.name for check in CHECKS)}
    assert THRESHOLDS["zero_gradients"] == "note above 0%, masked from 5%"
    assert THRESHOLDS["random_directions"] == "note from 5%, masked from 15%"
    assert THRESHOLDS["one_step"] == "note if beyond chance, masked from 3% of the images"
    assert THRESHOLDS["autoattack_square"] == "note from 1% and 5 images, masked from 5%"


def test_a_reduced_run_is_called_so_and_a_whole_one_is_not() -> None:
    words = "AutoAttack standard on the first 200 of 1,000 images, because the budget of 30 min ended"
    reduced = Page(render_audit(make_audit())).text
    assert f"Reduced run: {words}." in reduced
    assert "do not compare its robust accuracy" in reduced
    assert "educed run" not in Page(render_audit(whole())).text
    unattacked = Page(render_audit(make_audit(**UNATTACKED)))
    assert "was not run: the time budget does not hold even one image" in unattacked.text
    assert unattacked.rows[0][0] == "Check"


def test_the_page_needs_nothing_else_and_is_the_same_every_time(tmp_path: Path) -> None:
    record = make_audit(target="<script>alert(1)</script>")
    text = render_audit(record)
    page = Page(text)
    assert page.outside == []
    assert "url(" not in text
    assert "alert(1)" not in page_script()
    assert [named.get("class") or named.get("id") for named in page.scripts] == ["record", "page"]
    assert "<script>" not in text
    assert render_audit(record) == text


def test_the_page_has_the_reports_own_style() -> None:
    text = render_audit(make_audit())
    assert "--ground: #fbfbfa" in text
    assert "@media (prefers-color-scheme: dark)" in text
