"""The page of a certification: certified and empirical robust accuracy at the same radii on the same axes."""

from corral.evaluation.certificate import Certificate
from corral.records import as_percent
from corral.report.template import documents, filled
from corral.report.words import counted, environment_facts, percent, seconds_words

# Of the layers of a Lipschitz constant the page shows at most so many rows; the record has all.
MOST_LAYERS = 60


def certificate_sentences(certificate: Certificate) -> tuple[str, ...]:
    """What a certificate says, in sentences, one where it is vacuous: the same on the page and on the terminal."""
    found = certificate
    if is_vacuous(found) and not found.broken:
        return (
            f"Vacuous: nothing is proved at any radius asked for; Lipschitz bound {found.lipschitz:.3g}, median radius "
            f"{found.median:.2g}.",
        )
    images = f"{found.n:,} of the {found.n_test:,}" if found.n < found.n_test else f"all {found.n:,}"
    sentences = [f"Without attack {percent(found.clean)} of {images} test images are classified right."]
    for point in found.at:
        if point.radius > 0:
            attacked = "" if point.attacked is None else f"; {percent(point.attacked)} robust to every attack"
            sentences.append(
                f"Within l2 radius {radius_words(point.radius)}: {percent(point.certified)} proved{attacked}."
            )
    if found.broken:
        sentences.insert(0, f"Wrong: attacks broke {counted(found.broken, 'certificate')}. Believe none of them.")
    if found.below_next > 0:
        sentences.append(
            f"The radius of {percent(found.below_next)} of the images classified right is below 1/255: it holds no "
            "other image of 8 bits a value."
        )
    return tuple(sentences)


def is_vacuous(certificate: Certificate) -> bool:
    """Whether nothing is proved at any radius above 0 that was asked for."""
    return all(point.certified == 0 for point in certificate.at if point.radius > 0)


def radius_words(radius: float) -> str:
    """A radius in pixel units, as k/255 where it is one."""
    steps = 255 * radius
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 1e-6 * max(1.0, steps) else f"{radius:.4g}"


def render_certificate(certificate: Certificate) -> str:
    """The page as text; equal certificates give equal bytes."""
    # Imported late: matplotlib takes longer than the rest of the page.
    from corral.report.certificate.figure import certificate_figure

    described = "Share of test images against the l2 radius: certified, and empirically robust"
    return filled(
        "corral.report.certificate",
        "page.html",
        record=certificate,
        sentences=certificate_sentences(certificate),
        figure=certificate_figure(certificate, name="certified", description=described),
        layers=certificate.layers[:MOST_LAYERS],
        hidden=max(0, len(certificate.layers) - MOST_LAYERS),
        facts=_facts(certificate),
        radius_words=radius_words,
        as_percent=as_percent,
        seconds_words=seconds_words,
        vacuous=is_vacuous(certificate),
        documents=documents([("certificate", certificate)]),
    )


def _facts(found: Certificate) -> list[tuple[str, str]]:
    head = f"{found.head} head" + ("" if found.rule is None else f", rule {found.rule}")
    return [
        ("Model", ", ".join([found.run, *([f"recipe {found.recipe}"] if found.recipe else []), head])),
        ("Data", f"{found.data}, fingerprint {found.data_fingerprint}"),
        ("Model fingerprint", found.model_fingerprint),
        ("Images", f"{found.n:,} of {found.n_test:,} test images, class-balanced"),
        ("Clean accuracy", percent(found.clean)),
        ("Median radius", f"{found.median:.4g} in l2, of the images classified right"),
        ("Seeds", f"{'' if found.train_seed is None else f'training {found.train_seed}, '}attacks {found.seed}"),
        ("Training", seconds_words(found.train_seconds)),
        ("Certification", seconds_words(found.certify_seconds)),
        ("Made at", found.created),
        *environment_facts(found.environment),
        *(("Note", note[:1].upper() + note[1:]) for note in found.notes),
    ]
