"""Pages from templates: one way of filling them in, one style sheet, the report's own."""

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

PACKAGE, PAGE = "corral.report", "page.html"


def filled(package: str, name: str, **values: Any) -> str:
    """A template of a package with its values; `style` is the report's style sheet.

    Args:
        package: where the template lies.
        name: its file.
        values: what it shows; one that is missing is an error.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text(package, name)).render(style=_style(), **values)


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _style() -> Markup:
    report = _text(PACKAGE, PAGE)
    return Markup(report[report.index("<style>") + len("<style>") : report.index("</style>")])
