"""Dots and bars: a row for each strategy, one below the other, so that names have room."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes

from kbe_nat.lab.plots import text
from kbe_nat.lab.plots.scales import scale
from kbe_nat.lab.plots.series import Drawing, Line, Panel, Point
from kbe_nat.lab.plots.style import DIM, INK, LABEL_POINTS, colour, hatch, marker


def height(lines: Sequence[Line], marks: float = 0.0) -> float:
    """Inches of axes with these rows, of which each has marks of this height."""
    few = 0.2 if len(lines) <= FEW else 0.165
    label = max(text.height(_name(line), LABEL_POINTS) for line in lines) + 0.04
    return max(MARGIN + len(lines) * max(few, label, marks), 0.3)


def name_room(lines: Sequence[Line]) -> float:
    """Inches of their names."""
    parts = (part for line in lines for part in _name(line).split("\n"))
    return max(text.width(part, LABEL_POINTS) for part in parts) + 0.1


def dots(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """A mark with its interval; faint ones are the repeats."""
    groups = _groups(lines)
    for group, place in groups.items():
        rows = [row for row, line in enumerate(lines) if line.group == group]
        points = [lines[row].points[0] for row in rows]
        repeats = [
            (sample, row)
            for row, point in zip(rows, points, strict=True)
            for sample in point.samples
            if len(point.samples) > 1
        ]
        axes.plot(
            [x for x, _ in repeats],
            [row for _, row in repeats],
            "|",
            color=colour(place),
            alpha=0.45,
            markersize=5,
            zorder=2,
        )
        axes.errorbar(
            [point.middle for point in points],
            rows,
            xerr=whiskers(points),
            fmt=marker(place),
            color=colour(place),
            ecolor=INK,
            elinewidth=1.1,
            capsize=2.5,
            zorder=3,
        )
    if isinstance(drawing.plot.reference, float):
        axes.axvline(drawing.plot.reference, color=DIM, linestyle=(0, (4, 2)), linewidth=1)
    name_rows(axes, lines)
    axes.margins(x=0.06)
    values = [line.points[0] for line in lines]
    scale(axes, "x", (end for point in values for end in (point.low, point.middle, point.high)))


def bars(axes: Axes, drawing: Drawing, panel: Panel) -> None:
    """Bars from zero, a hatch for each measure; the reference is a line across them."""
    count = len(panel.lines)
    thickness = 0.8 / count
    for number, (name, lines) in enumerate(panel.lines.items()):
        offset = (number - (count - 1) / 2) * thickness
        rows = [row + offset for row in range(len(lines))]
        points = [line.points.get(0) or ABSENT for line in lines]
        axes.barh(
            rows,
            [point.middle for point in points],
            height=thickness * 0.92,
            color=colour(number),
            edgecolor=INK,
            hatch=hatch(number),
            linewidth=0.7,
            label=name.replace("_", " "),
        )
        axes.errorbar(
            [point.middle for point in points],
            rows,
            xerr=whiskers(points),
            fmt="none",
            ecolor=INK,
            elinewidth=1.1,
            capsize=2,
        )
    lines = next(iter(panel.lines.values()))
    minima = [(row, line.reference[0]) for row, line in enumerate(lines) if 0 in line.reference]
    if minima:
        axes.plot(
            [minimum for _, minimum in minima],
            [row for row, _ in minima],
            "|",
            color=INK,
            markersize=11,
            markeredgewidth=2.2,
            zorder=4,
            label=drawing.plot.reference_name,
        )
    name_rows(axes, lines)
    axes.set_xlim(left=0)


def name_rows(axes: Axes, lines: Sequence[Line]) -> None:
    """Label the rows, the first above."""
    axes.set_yticks(range(len(lines)), [_name(line) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _name(line: Line) -> str:
    return text.fold(line.label, ROOM, LABEL_POINTS)


def _groups(lines: Sequence[Line]) -> dict[str, int]:
    return {group: place for place, group in enumerate(dict.fromkeys(line.group for line in lines))}


def whiskers(points: Sequence[Point]) -> list[list[float]]:
    """From values to the ends of their intervals."""
    return [
        [max(0.0, point.middle - point.low) for point in points],
        [max(0.0, point.high - point.middle) for point in points],
    ]


ROOM: Final = 1.9
"""Inches that names of rows have, a third of the picture; longer ones are folded."""
FEW: Final = 8
"""Rows that are a little further apart."""
MARGIN: Final = 0.05
BAR: Final = 0.12
"""Inches of a bar at least."""
ABSENT: Final = Point(0.0, 0.0, 0.0, ())
