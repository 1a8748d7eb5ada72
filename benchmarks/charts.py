"""Pictures of figures: bars in groups, to be read at the width of a README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

#: By Okabe and Ito, whom people with any kind of colour vision can tell apart. Ours is the strong
#: one, what bounds it is grey.
COLOURS = {
    "ours": "#0072B2",
    "oban_sync": "#0072B2",
    "ceiling": "#BBBBBB",
    "raw SQL": "#BBBBBB",
    "oban-py": "#E69F00",
    "pgqueuer": "#009E73",
    "chancy": "#CC79A7",
    "procrastinate": "#56B4E9",
}
OTHERS = ("#D55E00", "#F0E442", "#555555", "#999933")


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars, in groups from top to bottom.

    Attributes:
        title: Above them.
        unit: What a bar's length is.
        groups: A name and its bars: who, and how much.
        note: Below them, in small letters.
    """

    title: str
    unit: str
    groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]
    note: str = ""


def can_draw() -> bool:
    """Tell whether matplotlib is there; it is imported when something is drawn."""
    return find_spec("matplotlib") is not None


def draw(chart: Chart, path: Path) -> None:
    """Draw it into a file, whose ending says as what."""
    import matplotlib

    matplotlib.use("Agg")

    from matplotlib import pyplot

    # Bars that are there in any group, in the order of the first group that has them.
    names = list(dict.fromkeys(name for _, bars in chart.groups for name, _ in bars))
    others = iter(OTHERS * len(names))
    colours = {name: COLOURS.get(name) or next(others) for name in names}
    places: list[float] = []
    heads: list[float] = []
    place = 0.0

    for _, bars in chart.groups:
        heads.append(place - 0.8)
        places += [place + number for number in range(len(bars))]
        place += len(bars) + 1.2

    # Of 100 dots per inch: 800 wide.
    figure, axes = pyplot.subplots(figsize=(8, 0.55 + 0.235 * place), dpi=100)
    bars = [bar for _, group in chart.groups for bar in group]
    longest = max(value for _, value in bars)
    axes.barh(
        places, [value for _, value in bars], height=0.82, color=[colours[name] for name, _ in bars]
    )

    for at, (name, value) in zip(places, bars, strict=True):
        axes.text(
            value + longest * 0.008,
            at,
            f"{value:,.0f}",
            va="center",
            fontsize=9,
            fontweight="bold" if name in ("ours", "oban_sync") else "normal",
        )

    for at, (head, _) in zip(heads, chart.groups, strict=True):
        axes.text(0, at, head, va="center", fontsize=9, fontweight="bold")

    axes.set_yticks(places, [name for name, _ in bars], fontsize=9)
    axes.set_ylim(max(places) + 0.7, min(heads) - 0.6)
    axes.set_xlim(0, longest * 1.1)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_title(f"{chart.title}, {chart.unit}", loc="left", fontsize=11, fontweight="bold")

    for spine in axes.spines.values():
        spine.set_visible(False)

    if chart.note:
        figure.text(0.01, 0.01, chart.note, fontsize=7.5, color="#555555")

    figure.tight_layout(rect=(0, 0.02 if chart.note else 0, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white", metadata={})
    pyplot.close(figure)
