"""Axes of numbers: logarithmic where values span decades, with ticks that people read."""

from collections.abc import Iterable
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from kbe_nat.lab.plots.style import LABEL_POINTS
from kbe_nat.lab.plots.text import width


def scale(axes: Axes, way: Literal["x", "y"], values: Iterable[float]) -> None:
    """Choose the scale of an axis for these values, and the ends of their intervals."""
    numbers = list(values)
    if min(numbers) > 0 and max(numbers) / min(numbers) >= DECADES:
        axes.set(**{f"{way}scale": "log"})


def tick(axes: Axes, way: Literal["x", "y"], room: float, *, is_whole: bool) -> None:
    """Let the axis, `room` inches long, have as many ticks as there is room for; at whole numbers
    where its values are counted.
    """
    axis = axes.xaxis if way == "x" else axes.yaxis
    # matplotlib's own have powers in TeX, which names in labels must not be read as, and offsets.
    axis.set_major_formatter(FuncFormatter(lambda value, _: _words(value)))
    if axis.get_scale() == "log":
        axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        return
    low, high = sorted(axis.get_view_interval())
    least = max(abs(low), abs(high)) * LEAST_SPAN
    if high - low < least:
        # Ticks any closer would be told by digits that no number of a run has.
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
        axis.set_view_interval(low, high, ignore=True)
    is_whole = is_whole and high - low >= WHOLE_SPAN
    for count in range(max(2, min(MOST, int(room / DISTANCE[way]))), 1, -1):
        locator = MaxNLocator(count, steps=STEPS, integer=is_whole, min_n_ticks=2)
        texts = [_words(value) for value in locator.tick_values(low, high) if low <= value <= high]
        if way == "y" or sum(width(t, LABEL_POINTS) + GAP for t in texts) <= room:
            break
    axis.set_major_locator(locator)


def _words(value: float) -> str:
    return PREFIXES(value) if abs(value) >= LARGE else f"{value:,.10g}"


DECADES: Final = 100.0
"""Largest over smallest value, from which an axis is logarithmic."""
LARGE: Final = 1e5
PREFIXES: Final = EngFormatter(sep="")
LEAST_SPAN: Final = 1e-6
"""Of an axis against its values."""
WHOLE_SPAN: Final = 2.0
"""Of an axis of counts: a shorter one, of means between two counts, has ticks between them."""
STEPS: Final = (1, 2, 2.5, 5, 10)
"""Between ticks, but for powers of ten."""
MOST: Final = 9
"""Ticks."""
DISTANCE: Final = {"x": 0.4, "y": 0.3}
"""Inches between two ticks at least."""
GAP: Final = 0.15
"""Inches between the texts of two ticks at least."""
