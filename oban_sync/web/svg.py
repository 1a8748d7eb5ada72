"""Small drawings that pages bring along: curves and bars, for where no scripts run.

Pure. What they look like is said by classes, as pages may not say it themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

#: A drawing of the size of a chart is stretched to its place; these are only proportions.
WIDTH = 600
HEIGHT = 160

Values = Sequence[float | None]

# The frame is stretched; the thickness of what is in it is not.
_CURVE = Markup(
    '<path class="{}" d="{}" vector-effect="non-scaling-stroke"><title>{}</title></path>'
)
# A line of no length with round ends is round however the frame is stretched.
_DOTS = Markup('<path class="{} dot" d="{}" vector-effect="non-scaling-stroke"/>')
_GRID = Markup(
    '<line class="grid" x1="0" x2="{0}" y1="{1}" y2="{1}" vector-effect="non-scaling-stroke"/>'
)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a drawing.

    Attributes:
        values: Its values, from left to right; None where there is none.
        kind: A class that gives it its colour.
        label: What it is called.
    """

    values: Values
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a row of bars.

    Attributes:
        value: How high it is.
        kind: A class that gives it its colour.
        label: What is told where the mouse rests on it.
    """

    value: float
    kind: str
    label: str


def curves(lines: Sequence[Line], *, label: str, most: float | None = None) -> Markup:
    """A chart of curves over the same times.

    Args:
        lines: The curves; the first one is drawn on top.
        label: What is told to those who cannot see it.
        most: What the upper edge stands for; by default the highest value.
    """
    top = most or highest(lines)
    drawn = Markup("").join(
        _CURVE.format(line.kind, path(line.values, top, WIDTH, HEIGHT), line.label)
        + _dots(line, top)
        for line in reversed(lines)
    )
    quarters = Markup("").join(
        _GRID.format(WIDTH, _short(HEIGHT * part / 4)) for part in range(1, 4)
    )

    return Markup(
        '<svg class="curves" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}{}</svg>'
    ).format(WIDTH, HEIGHT, label, quarters, drawn)


def sparkline(values: Values, *, label: str, kind: str = "", width: int = 96) -> Markup:
    """One small curve, as high as a line of text."""
    height = 18
    top = highest([Line(values, kind, label)])

    return Markup(
        '<svg class="spark" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-label="{2}"><title>{2}</title><path class="{3}" d="{4}"/></svg>'
    ).format(width, height, label, kind, path(values, top, width, height, edge=1.5))


def bars(row: Sequence[Bar], *, label: str, most: int = 50) -> Markup:
    """A row of small bars, as high as a line of text; each is seen, however low it is.

    Args:
        row: The bars, from left to right; of more than `most` the last ones.
        label: What is told to those who cannot see them.
        most: Most bars.
    """
    row = row[-most:]
    height, step = 18, 4
    top = max([bar.value for bar in row], default=0.0) or 1.0
    drawn = []

    for place, bar in enumerate(row):
        size = max(3.0, min(bar.value / top, 1.0) * height)
        drawn.append(
            Markup(
                '<rect class="{}" x="{}" y="{}" width="3" height="{}"><title>{}</title></rect>'
            ).format(bar.kind, place * step, _short(height - size), _short(size), bar.label)
        )

    return Markup(
        '<svg class="spark bars" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-label="{2}">{3}</svg>'
    ).format(max(1, len(row)) * step, height, label, Markup("").join(drawn))


def highest(lines: Sequence[Line]) -> float:
    """The highest value of all; 1 where there is none above 0, so that it can be divided by."""
    values = [value for line in lines for value in line.values if value is not None]

    return max(values, default=0.0) or 1.0


def path(values: Values, top: float, width: float, height: float, *, edge: float = 2.0) -> str:
    """The way of a curve as SVG writes it; broken where there are no values.

    Args:
        values: The values, from left to right.
        top: What the upper edge stands for; the lower one is 0.
        width: The width.
        height: The height.
        edge: What is left free above and below, for the thickness of the curve.
    """
    apart = width / max(1, len(values) - 1)
    room = height - 2 * edge
    parts: list[str] = []
    drawing = False

    for place, value in enumerate(values):
        if value is None:
            drawing = False
            continue

        y = height - edge - min(max(value / top, 0.0), 1.0) * room
        parts.append(f"{'L' if drawing else 'M'}{place * apart:.1f} {y:.1f}")

        # A value between two gaps would be a line of no length, which is not seen.
        if not drawing and _is_alone(values, place):
            parts.append("h1")

        drawing = True

    return " ".join([*parts, ""]).replace(".0 ", " ").rstrip()


def _dots(line: Line, top: float) -> Markup:
    """The values of a curve that stand between two gaps."""
    values = line.values
    alone = [place for place in range(len(values)) if _is_alone(values, place)]

    if not alone:
        return Markup("")

    # Each by itself, so that it is drawn where it is among the others.
    points = (
        path(
            [value if at == place else None for at, value in enumerate(values)], top, WIDTH, HEIGHT
        )
        for place in alone
    )

    return _DOTS.format(line.kind, " ".join(point.replace(" h1", "h0") for point in points))


def _is_alone(values: Values, place: int) -> bool:
    after = values[place + 1] if place + 1 < len(values) else None
    before = values[place - 1] if place else None

    return values[place] is not None and before is None and after is None


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
