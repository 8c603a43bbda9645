"""Figures as SVG: an element of a page, and a file of its own."""

from xml.etree import ElementTree

from corral.report.svg import drawing, finished_svg, new_figure, svg_file


def drawn(finish):
    with drawing("a"):
        figure, axes = new_figure(2, 1)
        axes.plot([0, 1], [1, 0], label="<b> & c")
        axes.legend()
        return finish(figure, "a", 'of "x"')


def test_a_file_is_the_element_of_the_page_with_its_namespace():
    element, alone = drawn(finished_svg), drawn(svg_file)
    root = ElementTree.fromstring(alone)
    assert (root.tag, root.get("aria-label")) == ("{http://www.w3.org/2000/svg}svg", 'of "x"')
    assert alone.split(">", 1)[1].strip() == element.split(">", 1)[1].strip()
    assert "<b> & c" in "".join(root.itertext())
