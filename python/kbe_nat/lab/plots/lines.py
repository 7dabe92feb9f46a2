"""Curves over a column of numbers, and lines over time with the events of the run."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from kbe_nat.lab.plots.scales import scale
from kbe_nat.lab.plots.series import Drawing, Line
from kbe_nat.lab.plots.style import DIM, colour, line, marker


def curves(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """Marks with intervals, joined."""
    for place, each in enumerate(lines):
        points = list(each.points.values())
        axes.errorbar(
            list(each.points),
            [point.middle for point in points],
            yerr=[
                [max(0.0, point.middle - point.low) for point in points],
                [max(0.0, point.high - point.middle) for point in points],
            ],
            color=colour(place),
            linestyle=line(place),
            marker=marker(place),
            elinewidth=1,
            capsize=2.5,
            label=each.label,
        )
    if isinstance(drawing.plot.reference, float):
        axes.axhline(drawing.plot.reference, color=DIM, linestyle=(0, (4, 2)), linewidth=1)
    scale(axes, "x", [place for each in lines for place in each.points])
    values = [point for each in lines for point in each.points.values()]
    scale(axes, "y", [p.middle for p in values], min(p.low for p in values))


def times(
    axes: Axes, drawing: Drawing, lines: Sequence[Line], events: Sequence[tuple[float, str]]
) -> None:
    """Lines with a mark here and there, since many points are close."""
    for place, each in enumerate(lines):
        count = len(each.points)
        step = max(1, count // 8)
        axes.plot(
            list(each.points),
            [point.middle for point in each.points.values()],
            color=colour(place),
            linestyle=line(place),
            marker=marker(place),
            # Marks of lines that lie on each other are beside each other.
            markevery=(place * max(1, step // max(1, len(lines))) % step, step),
            linewidth=1.1,
            label=each.label,
        )
    for time, _ in events:
        axes.axvline(time, color=DIM, linestyle=(0, (1, 1.5)), linewidth=0.9, zorder=1)


def name_events(axes: Axes, events: Sequence[tuple[float, str]]) -> None:
    """Events in words above the axes, where they have room."""
    low, high = axes.get_xlim()
    room = (high - low) * 0.16
    times_of_events = [time for time, _ in events]
    if len(events) > 5 or any(b - a < room for a, b in pairwise(times_of_events)):
        return
    for time, words in events:
        is_late = time > (low + high) / 2
        axes.annotate(
            words,
            (time, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="bottom",
            fontsize=7.5,
            color=DIM,
        )
