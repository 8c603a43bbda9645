"""Pages from templates: one way of filling them in, one document, style sheet and script under all."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from corral.documents import Document, document_text
from corral.report.palette import style_sheet

PACKAGE = "corral.report"
SCRIPTS = ("filters.js", "tables.js", "charts.js")
# Of a verdict what is not opened, and the characters of a line.
VERDICT_LINES, BOLD_LINE, LINE = 3, 94, 114
# Where the contents go once the page is there.
CONTENTS = Markup("<!-- contents -->")
# Records of one page together; above it each is without what is listed below, which tables have.
MOST_RECORDS = 500_000
LONG_FIELDS = ("per_class", "clean_per_class", "series", "curve", "layers")
# A section's id, and its heading.
_SECTION = re.compile(r'<section[^>]*? id="([^"]+)"[^>]*>\s*<h([23])[^>]*>(.*?)</h\2>', re.DOTALL)


def filled(package: str, name: str, **values: Any) -> str:
    """A template of a package with its values; it may extend `document.html` and import from `parts.html`.

    Args:
        package: where the template lies.
        name: its file.
        values: what it shows; one that is missing is an error.
    """
    import jinja2  # late: who trains or attacks needs none of it

    places = [jinja2.PackageLoader(place, "") for place in dict.fromkeys([package, PACKAGE])]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(places),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["at_once"] = at_once
    script = page_script()
    page = environment.get_template(name).render(
        style=Markup(f"{style_sheet()}{_text('page.css')}"),
        script=Markup(script),
        script_hash=Markup(f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"),
        contents_mark=CONTENTS,
        **values,
    )
    return page.replace(CONTENTS, contents(page), 1)


def at_once(sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    """A verdict's sentences that are read at once, and those to be opened.

    The headline, which is bold, and of the others in their order those with which it has `VERDICT_LINES` lines on a
    page 1280 pixels wide.
    """
    headline, *others = sentences
    shown: list[str] = [headline]
    opened: list[str] = []
    left = VERDICT_LINES - math.ceil(len(headline) / BOLD_LINE)
    for sentence in others:
        lines = math.ceil(len(sentence) / LINE)
        (shown if lines <= left else opened).append(sentence)
        left -= lines if lines <= left else 0
    return shown, opened


def contents(page: str) -> str:
    """The list of a page's sections that have an id: links, those of the third level marked as below the others."""
    links = [
        f'<li{" class=" + chr(34) + "below" + chr(34) if level == "3" else ""}><a href="#{place}">{heading}</a></li>'
        for place, level, heading in _SECTION.findall(page)
    ]
    return "\n".join(["<ul>", *links, "</ul>"])


@cache
def page_script() -> str:
    """What every page does: sorting and filtering tables, downloads, values of charts."""
    parts = "\n".join(_text(f"scripts/{name}") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def documents(named: Iterable[tuple[str, Document]]) -> list[tuple[str, Markup]]:
    """Records as a page carries them, by the name of their file; of many large ones without their longest lists."""
    found = [(name, document_text(record)) for name, record in named]
    if sum(len(text) for _, text in found) > MOST_RECORDS:
        found = [(name, json.dumps(_shortened(json.loads(text)), indent=1)) for name, text in found]
    return [(name, Markup(text.translate(_IN_SCRIPT))) for name, text in found]


def script_json(content: Any) -> Markup:
    """Content as JSON inside a `<script>`."""
    return Markup(json.dumps(content).translate(_IN_SCRIPT))


# As in Jinja's tojson: no text in a script can end it.
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def _shortened(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: "left out of the page" if key in LONG_FIELDS else _shortened(content[key]) for key in content}
    return [_shortened(one) for one in content] if isinstance(content, list) else content


@cache
def _text(name: str) -> str:
    return files(PACKAGE).joinpath(name).read_text(encoding="utf-8")
