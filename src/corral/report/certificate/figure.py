"""The figure of a certificate; matplotlib is imported with this file, so import this file only to draw."""

from corral.evaluation.certificate import Certificate
from corral.report.palette import line_style
from corral.report.svg import PageFigure, drawing, new_figure, page_figure, quiet


def certificate_figure(certificate: Certificate, *, name: str, description: str) -> PageFigure:
    """Certified and empirical robust accuracy against the l2 radius, the gap between them shaded."""
    radii = [point.radius for point in certificate.curve]
    certified = [100 * point.certified for point in certificate.curve]
    attacked = [100 * point.attacked for point in certificate.curve if point.attacked is not None]
    with drawing(name):
        figure, axes = new_figure(5.2, 3.2)
        proved, tried = line_style(0), line_style(1)
        if attacked:
            axes.fill_between(radii, certified, attacked, step="pre", color="#999999", alpha=0.18, linewidth=0)
            axes.step(
                radii, attacked, where="pre", color=tried.colour, linewidth=1.6, linestyle="--", label="empirical"
            )
        axes.step(radii, certified, where="pre", color=proved.colour, linewidth=1.8, label="certified")
        for point in certificate.at:
            axes.plot(point.radius, 100 * point.certified, marker=proved.marker, color=proved.colour, clip_on=False)
            if point.attacked is not None:
                axes.plot(point.radius, 100 * point.attacked, marker=tried.marker, color=tried.colour, clip_on=False)
        axes.set(xlabel="l2 radius, pixels in [0, 1]", ylabel="images, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8.5)
        quiet(axes, grid="y")
        return page_figure(figure, name, description)
