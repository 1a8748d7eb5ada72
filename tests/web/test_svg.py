"""Drawings: in their frame, without a style, and harmless whatever they are of."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from oban_sync.web import svg
from oban_sync.web.svg import Bar, Line

VALUE = st.one_of(st.none(), st.floats(min_value=0, max_value=1e12))


def numbers_of(path):
    return [float(number) for number in re.findall(r"-?[\d.]+", path.replace("h1", ""))]


@given(st.lists(VALUE, max_size=50))
def test_a_curve_stays_in_its_frame(values):
    top = svg.highest([Line(values, "c-0", "x")])
    found = numbers_of(svg.path(values, top, 600, 160))

    assert all(0 <= x <= 600 for x in found[::2])
    assert all(0 <= y <= 160 for y in found[1::2])
    assert len(found) == 2 * sum(value is not None for value in values)


def test_a_curve_is_broken_where_there_is_no_value():
    path = svg.path([0, 5, None, 10, None, 5, 5], 10, 60, 104)

    assert path == "M0 102 L10 52 M30 2 h1 M50 52 L60 52"


def test_a_value_between_two_gaps_is_a_dot_in_the_colour_of_its_curve():
    drawing = svg.curves([Line([None, 10, None, 5, 5, None, 0], "c-3", "x")], label="x")
    dots = [each for each in ElementTree.fromstring(drawing) if "dot" in each.get("class", "")]

    assert [dot.get("class") for dot in dots] == ["c-3 dot"]
    assert dots[0].get("d") == "M100 2h0 M600 158h0"
    assert "dot" not in svg.curves([Line([1, 2, None], "c-0", "x")], label="x")


def test_a_drawing_is_xml_and_has_no_style_of_its_own():
    hostile = "<script>alert(1)</script>\"' onload=x"

    for drawing in (
        svg.curves([Line([1, 2, None], "c-0", hostile)], label=hostile),
        svg.curves([], label=""),
        svg.sparkline([1, 2], label=hostile),
        svg.sparkline([], label=""),
        svg.bars([Bar(1, "b-inserted", hostile)], label=hostile),
        svg.bars([], label=""),
    ):
        root = ElementTree.fromstring(drawing)

        for element in root.iter():
            assert element.tag in ("svg", "path", "line", "rect", "title")
            assert not {"style", "onload"} & element.attrib.keys()


def test_low_bars_are_seen_and_old_ones_left_out():
    root = ElementTree.fromstring(
        svg.bars([Bar(n, "b-inserted", str(n)) for n in range(60)], label="x")
    )
    bars = list(root)

    assert len(bars) == 50
    assert bars[0][0].text == "10"
    assert all(3 <= float(bar.get("height")) <= 18 for bar in bars)
