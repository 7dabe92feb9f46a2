"""Axes of numbers: logarithmic where values span decades, with ticks that people read."""

from collections.abc import Iterable
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter


def scale(
    axes: Axes, way: Literal["x", "y"], values: Iterable[float], lowest: float | None = None
) -> None:
    """Choose the scale of an axis for these values; `lowest` is the end of the lowest interval, if
    there are some.
    """
    axis = axes.xaxis if way == "x" else axes.yaxis
    numbers = list(values)
    floor = min(numbers) if lowest is None else min(lowest, *numbers)
    if floor > 0 and max(numbers) / min(numbers) >= DECADES:
        axes.set(**{f"{way}scale": "log"})
        # Its own ticks are powers in TeX, which names in labels must not be read as.
        axis.set_major_formatter(FuncFormatter(lambda value, _: _words(value)))
    elif max(map(abs, numbers)) >= LARGE:
        axis.set_major_formatter(FuncFormatter(lambda value, _: _words(value)))


def _words(value: float) -> str:
    return PREFIXES(value) if abs(value) >= LARGE else f"{value:,.10g}"


DECADES: Final = 100.0
"""Largest over smallest value, from which an axis is logarithmic."""
LARGE: Final = 1e5
PREFIXES: Final = EngFormatter(sep="")
