"""The share of each backend: a few in one row for each strategy, many over their positions."""

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes

from kbe_nat.lab.plots.rows import name_rows
from kbe_nat.lab.plots.series import Drawing, Line, Point
from kbe_nat.lab.plots.style import DIM, INK, colour, marker


def has_many(lines: Sequence[Line]) -> bool:
    """Whether there are too many backends for colours of their own."""
    return max(len(each.points) for each in lines) > NAMED


def beside(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """Backends of a strategy in its row, with shares in figures and the fair ones as lines."""
    figures: dict[float, str] = {}
    backends = sorted({place for each in lines for place in each.points})
    for number, backend in enumerate(backends):
        offset = (number - (len(backends) - 1) / 2) * 0.8 / len(backends)
        rows = [row + offset for row, each in enumerate(lines) if backend in each.points]
        points = [each.points[backend] for each in lines if backend in each.points]
        axes.errorbar(
            [point.middle for point in points],
            rows,
            xerr=[
                [point.middle - point.low for point in points],
                [point.high - point.middle for point in points],
            ],
            fmt=marker(number),
            color=colour(number),
            ecolor=INK,
            elinewidth=1.1,
            capsize=2.5,
            label=f"backend {backend:g}",
        )
        figures |= dict(zip(rows, map(_figure, points), strict=True))
    right = axes.secondary_yaxis("right")
    right.set_yticks(list(figures), list(figures.values()), fontsize=7.5)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    for row, each in enumerate(lines):
        for fair in set(each.reference.values()):
            axes.plot([fair, fair], [row - 0.45, row + 0.45], color=DIM, linewidth=1, zorder=1)
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
        yerr=[
            [point.middle - point.low for point in points],
            [point.high - point.middle for point in points],
        ],
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


def _figure(point: Point) -> str:
    half = (point.high - point.low) / 2
    return f"{point.middle:.3f} ±{half:.3f}" if half else f"{point.middle:.3f}"


NAMED: Final = 4
