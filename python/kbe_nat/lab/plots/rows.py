"""Dots and bars: a row for each strategy, one below the other, so that names have room."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes

from kbe_nat.lab.plots.scales import LARGE, scale
from kbe_nat.lab.plots.series import Drawing, Line, Panel, Point
from kbe_nat.lab.plots.style import DIM, INK, colour, hatch, marker


def height(drawing: Drawing, panel: Panel) -> float:
    """Inches of its axes."""
    lines = len(next(iter(panel.lines.values())))
    measures = len(panel.lines) if drawing.kind == "bars" else 1
    return 0.55 + lines * max(pitch(lines), 0.12 * measures)


def pitch(count: int) -> float:
    """Inches of a row: less where there are many."""
    return 0.2 if count <= 8 else 0.165


def dots(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """A mark with its interval; faint ones are the repeats."""
    groups = _groups(lines)
    for row, line in enumerate(lines):
        place = groups[line.group]
        point = line.points[0]
        if len(point.samples) > 1:
            rows = [row] * len(point.samples)
            axes.plot(
                point.samples, rows, "|", color=colour(place), alpha=0.45, markersize=5, zorder=2
            )
        axes.errorbar(
            point.middle,
            row,
            xerr=_whiskers(point),
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
    points = [line.points[0] for line in lines]
    scale(axes, "x", [point.middle for point in points], min(point.low for point in points))


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
            xerr=[
                [max(0.0, point.middle - point.low) for point in points],
                [max(0.0, point.high - point.middle) for point in points],
            ],
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
    if axes.get_xlim()[1] >= LARGE:
        scale(axes, "x", [0.0, axes.get_xlim()[1]])


def name_rows(axes: Axes, lines: Sequence[Line]) -> None:
    """Label the rows, the first above."""
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _groups(lines: Sequence[Line]) -> dict[str, int]:
    return {group: place for place, group in enumerate(dict.fromkeys(line.group for line in lines))}


def _whiskers(point: Point) -> list[list[float]]:
    return [[max(0.0, point.middle - point.low)], [max(0.0, point.high - point.middle)]]


ABSENT: Final = Point(0.0, 0.0, 0.0, ())
