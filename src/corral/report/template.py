"""Pages from templates: one way of filling them in, one document and one style sheet under all."""

from typing import Any

PACKAGE = "corral.report"


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
    return environment.get_template(name).render(**values)
