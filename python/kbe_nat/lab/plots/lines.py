"""Curves over a column of numbers, and lines over time with the events of the run."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from matplotlib.axes import Axes

from kbe_nat.lab.plots import text
from kbe_nat.lab.plots.rows import whiskers
from kbe_nat.lab.plots.scales import scale
from kbe_nat.lab.plots.series import Drawing, Line
from kbe_nat.lab.plots.style import DIM, INK, SMALL_POINTS, colour, line, marker


def curves(axes: Axes, drawing: Drawing, lines: Sequence[Line]) -> None:
    """Marks with intervals, joined."""
    for place, each in enumerate(lines):
        points = list(each.points.values())
        axes.errorbar(
            list(each.points),
            [point.middle for point in points],
            yerr=whiskers(points),
            color=colour(place),
            linestyle=line(place),
            marker=marker(place),
            elinewidth=1,
            capsize=2.5,
            label=each.label,
        )
    if isinstance(drawing.plot.reference, float):
        axes.axhline(drawing.plot.reference, color=DIM, linestyle=(0, (4, 2)), linewidth=1)
    references = [each.reference for each in lines if each.reference]
    if references and all(each == references[0] for each in references):
        axes.plot(
            list(references[0]),
            list(references[0].values()),
            color=INK,
            linestyle=(0, (4, 2)),
            linewidth=1,
            label=drawing.plot.reference_name,
        )
    scale(axes, "x", [place for each in lines for place in each.points])
    values = [point for each in lines for point in each.points.values()]
    scale(axes, "y", (end for p in values for end in (p.low, p.middle, p.high)))


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


def event_names(
    events: Sequence[tuple[float, str]], span: tuple[float, float], room: float
) -> list[tuple[float, str, bool]]:
    """Events in words that have room above axes of so many inches, which show this span of time:
    each with its time, and whether it stands left of it. Empty where some have none.
    """
    low, high = span
    inches = room / ((high - low) or 1.0)
    times_of_events = [time for time, _ in events]
    if len(events) > 5 or any((b - a) * inches < NARROWEST for a, b in pairwise(times_of_events)):
        return []
    names = []
    edge = 0.0
    for place, (time, words) in enumerate(events):
        is_late = time > (low + high) / 2
        at = (time - low) * inches
        after = (times_of_events[place + 1] - low) * inches if place + 1 < len(events) else room
        space = (at - edge if is_late else after - at) - BESIDE
        name = text.fold(words, max(space, 0.3), SMALL_POINTS)
        if name.count("\n") >= EVENT_LINES:
            return []
        edge = at if is_late else at + space
        names.append((time, name, is_late))
    return names


def name_events(axes: Axes, names: Sequence[tuple[float, str, bool]]) -> None:
    """Write them above the axes."""
    for time, words, is_late in names:
        axes.annotate(
            words,
            (time, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="bottom",
            fontsize=SMALL_POINTS,
            color=DIM,
        )


NARROWEST: Final = 0.8
"""Inches between two events that are named."""
BESIDE: Final = 0.08
EVENT_LINES: Final = 2
"""That a name of an event has at most."""
