"""A plot as a figure of matplotlib: axes for its panels and measures, and files.

Equal runs give equal files: nothing is dated, and what matplotlib draws by chance is salted.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kbe_nat.lab.plots import lines as over
from kbe_nat.lab.plots import rows, shares
from kbe_nat.lab.plots.series import Drawing, Line
from kbe_nat.lab.plots.style import SETTINGS, WIDTH
from kbe_nat.lab.tables import Column


class Picture(NamedTuple):
    """A plot as it is written to files."""

    svg: bytes
    png: bytes


class _Part(NamedTuple):
    """Axes with what is drawn into them."""

    height: float
    """Inches."""
    title: str
    draw: Callable[[Axes], None]
    x_label: str
    y_label: str


def picture(drawing: Drawing, events: Sequence[tuple[float, str]]) -> Picture:
    """Draw it. Cost: about a third of a second."""
    parts = _parts(drawing, events)
    heights = [part.height for part in parts]
    with matplotlib.rc_context(SETTINGS):
        size = (WIDTH, sum(heights) + 0.45)
        # Room for fonts that are wider than the one that is measured.
        layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.05)
        figure = Figure(figsize=size, layout=layout)
        grid = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        title = f"{drawing.plot.title} ({drawing.note})" if drawing.note else drawing.plot.title
        figure.suptitle(textwrap.fill(title, TITLE_LETTERS), x=0.01, ha="left")
        for axes, part in zip(grid[:, 0], parts, strict=True):
            part.draw(axes)
            axes.set_title(part.title)
            axes.set_xlabel(part.x_label)
            axes.set_ylabel(part.y_label)
        if drawing.kind == "times":
            over.name_events(grid[0, 0], events)
        _legend(figure, list(grid[:, 0]))
        # Laid out once for both files: laying out costs as much as drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return Picture(_saved(figure, "svg"), _saved(figure, "png"))


def _parts(drawing: Drawing, events: Sequence[tuple[float, str]]) -> list[_Part]:
    parts = []
    for panel in drawing.panels:
        if drawing.kind == "bars":
            label = _shared_label([drawing.columns[name] for name in panel.lines])
            height = rows.height(drawing, panel)
            draw = partial(rows.bars, drawing=drawing, panel=panel)
            parts.append(_Part(height, panel.title, draw, label, ""))
            continue
        for name, lines in panel.lines.items():
            parts += _measure_parts(drawing, panel.title, drawing.columns[name], lines, events)
    if drawing.kind in ("times", "curves"):
        # Axes of one below the other share the label of the lowest.
        parts[:-1] = [part._replace(x_label="") for part in parts[:-1]]
    return parts


def _measure_parts(
    drawing: Drawing,
    title: str,
    measure: Column,
    lines: Sequence[Line],
    events: Sequence[tuple[float, str]],
) -> list[_Part]:
    label = _label(measure)
    x_label = "" if drawing.x is None else _label(drawing.x)
    match drawing.kind:
        case "dots":
            height = 0.55 + rows.pitch(len(lines)) * len(lines)
            return [
                _Part(height, title, partial(rows.dots, drawing=drawing, lines=lines), label, "")
            ]
        case "curves":
            return [
                _Part(
                    2.6, title, partial(over.curves, drawing=drawing, lines=lines), x_label, label
                )
            ]
        case "times":
            return [
                _Part(
                    1.9,
                    title,
                    partial(over.times, drawing=drawing, lines=lines, events=events),
                    x_label,
                    label,
                )
            ]
    if not shares.has_many(lines):
        height = 0.55 + 0.3 * len(lines)
        return [
            _Part(height, title, partial(shares.beside, drawing=drawing, lines=lines), label, "")
        ]
    if len(lines) > POSITIONED:
        height = 0.55 + rows.pitch(len(lines)) * len(lines)
        return [_Part(height, title, partial(shares.spread, lines=lines), RATIO, "")]
    parts = [
        _Part(
            1.25,
            ", ".join(filter(None, (title, line.label))),
            partial(shares.over_positions, drawing=drawing, line=line),
            "",
            measure.unit,
        )
        for line in lines
    ]
    return [*parts[:-1], parts[-1]._replace(x_label=x_label)]


def _shared_label(measures: Sequence[Column]) -> str:
    """Of an axis that several measures share, whose names are in the legend."""
    if len(measures) == 1:
        return _label(measures[0])
    return ", ".join(dict.fromkeys(measure.unit for measure in measures))


def _label(column: Column) -> str:
    name = column.name.replace("_", " ")
    if not column.unit or column.unit in name:
        return name
    return f"{name.removesuffix(f' {column.unit}')}, {column.unit}"


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One for all axes, below them, since they tell the same lines apart."""
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        longest = max(map(len, entries))
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower left",
            ncols=max(1, min(4, LEGEND_LETTERS // (longest + 8))),
        )


def _saved(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    file = io.BytesIO()
    # SVG has a date, PNG the version of what has written it.
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    figure.savefig(file, format=kind, metadata=nothing[kind], dpi=PIXELS_PER_INCH)
    # The fonts of a machine without this one come close in width.
    return file.getvalue().replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")


PIXELS_PER_INCH: Final = 144
TITLE_LETTERS: Final = 72
RATIO: Final = "share over fair share, ratio"
LEGEND_LETTERS: Final = 88
POSITIONED: Final = 6
"""Strategies whose backends have axes of their own."""
