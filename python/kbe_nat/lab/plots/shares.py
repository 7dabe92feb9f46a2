"""The share of each backend: a few in one row for each strategy, many over their positions."""

from collections.abc import Sequence
from typing import Final, Literal

from matplotlib.axes import Axes

from kbe_nat.lab.plots import text
from kbe_nat.lab.plots.rows import name_rows, whiskers
from kbe_nat.lab.plots.series import Drawing, Line, Point
from kbe_nat.lab.plots.style import DIM, INK, SMALL_POINTS, colour, marker
from kbe_nat.lab.statistics import figure, interval_words


def form(lines: Sequence[Line]) -> Literal["beside", "spread", "positions"]:
    """How they are drawn: a few backends in one row with figures; many as strokes in a row, or, of
    a few strategies, over their positions.
    """
    if max(len(each.points) for each in lines) <= NAMED:
        return "beside"
    return "spread" if len(lines) > POSITIONED else "positions"


def marks(lines: Sequence[Line]) -> float:
    """Inches of a row with a figure for each of its backends."""
    return max(0.3, GAP + len(_backends(lines)) * text.height("0", SMALL_POINTS))


def figure_room(lines: Sequence[Line]) -> float:
    """Inches of these figures."""
    figures = (_figure(point) for each in lines for point in each.points.values())
    return max(text.width(figure, SMALL_POINTS) for figure in figures) + 0.1


def beside(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """Backends of a strategy in its row, with shares in figures and the fair ones as lines."""
    figures: dict[float, str] = {}
    backends = _backends(lines)
    # All of a row but a gap to the next one.
    step = (1 - GAP / marks(lines)) / len(backends)
    for number, backend in enumerate(backends):
        offset = (number - (len(backends) - 1) / 2) * step
        rows = [row + offset for row, each in enumerate(lines) if backend in each.points]
        points = [each.points[backend] for each in lines if backend in each.points]
        axes.errorbar(
            [point.middle for point in points],
            rows,
            xerr=whiskers(points),
            fmt=marker(number),
            color=colour(number),
            ecolor=INK,
            elinewidth=1.1,
            capsize=2.5,
            label=f"backend {backend:g}",
        )
        figures |= dict(zip(rows, map(_figure, points), strict=True))
    for row, figure_text in figures.items():
        axes.annotate(
            figure_text,
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL_POINTS,
            color=DIM,
            annotation_clip=False,
        )
    name = drawing.plot.reference_name
    for row, each in enumerate(lines):
        for fair in set(each.reference.values()):
            ends = [row - 0.45, row + 0.45]
            axes.plot([fair, fair], ends, color=DIM, linewidth=1, zorder=1, label=name)
    name_rows(axes, lines)
    axes.margins(x=0.1)


def spread(axes: Axes, lines: Sequence[Line]) -> None:
    """Each strategy in a row, with a stroke for each backend: its share against the fair one."""
    for row, each in enumerate(lines):
        ratios = [
            point.middle / fair
            for place, point in each.points.items()
            if (fair := each.reference.get(place))
        ]
        axes.plot(ratios, [row] * len(ratios), "|", color=colour(0), alpha=0.8, markersize=8)
    axes.axvline(1, color=DIM, linestyle=(0, (4, 2)), linewidth=1)
    name_rows(axes, lines)
    axes.margins(x=0.06)


def over_positions(axes: Axes, drawing: Drawing, line: Line) -> None:
    """All backends of one strategy by their positions."""
    points = list(line.points.values())
    axes.errorbar(
        list(line.points),
        [point.middle for point in points],
        yerr=whiskers(points),
        fmt="o",
        markersize=3 if len(points) < 60 else 1.8,
        color=colour(0),
        ecolor=DIM,
        elinewidth=0.8,
    )
    axes.plot(
        list(line.reference),
        list(line.reference.values()),
        color=INK,
        linewidth=1,
        linestyle=(0, (4, 2)),
        label=drawing.plot.reference_name,
    )
    axes.set_ylim(bottom=0)


def _backends(lines: Sequence[Line]) -> list[float]:
    return sorted({place for each in lines for place in each.points})


def _figure(point: Point) -> str:
    if len(point.samples) < 2:
        return figure(point.middle)
    return interval_words(point.middle, point.low, point.high)


NAMED: Final = 4
"""Backends that have colours of their own."""
POSITIONED: Final = 6
"""Strategies whose backends have axes of their own."""
GAP: Final = 0.03
"""Inches between two rows."""
