"""A plot as a figure of matplotlib: axes for its panels and measures, and files.

Each of the axes is as high as what it shows needs, and has room around it for its texts, whose
widths are measured: names are folded, never cut, and the layout that matplotlib computes has a
solution. A plot that is higher than a page is spread over several figures.

Equal runs give equal files: nothing is dated, and what matplotlib draws by chance is salted.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kbe_nat.lab.plots import lines as over
from kbe_nat.lab.plots import rows, shares, text
from kbe_nat.lab.plots.scales import tick
from kbe_nat.lab.plots.series import Drawing, Line, Panel, words_of
from kbe_nat.lab.plots.style import (
    HEADING_POINTS,
    LEGEND_POINTS,
    SETTINGS,
    SMALL_POINTS,
    TALLEST,
    TITLE_POINTS,
    WIDTH,
)
from kbe_nat.lab.tables import Column


class Picture(NamedTuple):
    """A plot as it is written to files."""

    svg: bytes
    png: bytes


class _Part(NamedTuple):
    """Axes with what is drawn into them."""

    height: float
    """Inches of the axes themselves."""
    title: str
    draw: Callable[[Axes], None]
    x_label: str
    y_label: str
    name_room: float = 0.75
    """Inches of what stands beside them."""
    figure_room: float = 0.0
    has_rows: bool = False
    """Whether the vertical axis names rows."""
    is_whole: tuple[bool, bool] = (False, False)
    """Whether values of the horizontal, and of the vertical axis are counted."""

    @property
    def room(self) -> float:
        """Inches of the axes from left to right."""
        return WIDTH - self.name_room - self.figure_room - 2 * PAD

    def folded(self) -> "_Part":
        """The same with texts that have room."""
        return self._replace(
            title=text.fold(self.title, self.room, TITLE_POINTS),
            x_label=text.fold(self.x_label, self.room, TITLE_POINTS),
            y_label=text.fold(self.y_label, self.height, TITLE_POINTS),
        )

    @property
    def frame(self) -> float:
        """Inches of texts above and below."""
        return TICKS + sum(text.height(each, TITLE_POINTS) for each in (self.title, self.x_label))


def sheets(drawing: Drawing) -> list[Drawing]:
    """The drawing, or, where it is higher than a page, several with a part of its panels each."""
    parts: list[list[Panel]] = [[]]
    total = 0.0
    for panel in drawing.panels:
        measures = (
            [panel.lines] if drawing.kind == "bars" else [{n: panel.lines[n]} for n in panel.lines]
        )
        for lines in measures:
            part = panel._replace(lines=lines)
            height = _height(_parts(drawing._replace(panels=[part]), []))
            if parts[-1] and total + height > TALLEST:
                parts.append([])
                total = 0.0
            parts[-1].append(part)
            total += height
    return [_sheet(drawing, place, len(parts), panels) for place, panels in enumerate(parts, 1)]


def _sheet(drawing: Drawing, place: int, count: int, panels: Sequence[Panel]) -> Drawing:
    if count == 1:
        return drawing
    plot = drawing.plot
    name = plot.name if place == 1 else f"{plot.name}-{place}"
    return drawing._replace(
        plot=plot._replace(name=name, title=f"{plot.title}, {place} of {count}"), panels=panels
    )


def picture(drawing: Drawing, events: Sequence[tuple[float, str]]) -> Picture:
    """Draw it. Cost: about a third of a second."""
    with matplotlib.rc_context(SETTINGS), text.font_may_lack_letters():
        figure = draw(drawing, events)
        # Laid out once for both files: laying out costs as much as drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            # The solver's last digits depend on the addresses of objects, and identifiers on them.
            x, y, width, height = (round(edge, 5) for edge in axes.get_position().bounds)
            axes.set_position((x, y, width, height))
        return Picture(_saved(figure, "svg"), _saved(figure, "png"))


def draw(drawing: Drawing, events: Sequence[tuple[float, str]]) -> Figure:
    """The figure, not yet laid out."""
    parts = [part.folded() for part in _parts(drawing, events)]
    # Room for fonts that are wider than the one that is measured: figures at the right grow there.
    right = 1 - WIDER * max(part.figure_room for part in parts) / WIDTH
    layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=0.05, rect=(0, 0, right, 1))
    # Letters are laid out as they are drawn: their widths depend on the size of pixels.
    figure = Figure(layout=layout, dpi=PIXELS_PER_INCH)
    ratios = [part.height for part in parts]
    grid = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axes, part in zip(grid[:, 0], parts, strict=True):
        part.draw(axes)
        tick(axes, "x", part.room, is_whole=part.is_whole[0])
        if not part.has_rows:
            tick(axes, "y", part.height, is_whole=part.is_whole[1])
        axes.set_title(part.title)
        axes.set_xlabel(part.x_label)
        axes.set_ylabel(part.y_label)
    title = f"{drawing.plot.title} ({drawing.note})" if drawing.note else drawing.plot.title
    title = text.fold(title, (WIDTH - 2 * PAD) / BOLD, HEADING_POINTS)
    figure.suptitle(title, x=0.01, ha="left")
    height = _height(parts) + text.height(title, HEADING_POINTS) + 0.15
    if drawing.kind == "times":
        height += _name_events(grid[0, 0], parts[0], events)
    height += _legend(figure, list(grid[:, 0]), drawing.plot.reference_name)
    figure.set_size_inches(WIDTH, height)
    return figure


def _height(parts: Sequence[_Part]) -> float:
    return sum(part.height + part.frame for part in parts)


def _name_events(axes: Axes, part: _Part, events: Sequence[tuple[float, str]]) -> float:
    """Name the events between the axes and their title; the inches that this takes."""
    names = over.event_names(events, axes.get_xlim(), part.room)
    if not names:
        return 0.0
    over.name_events(axes, names)
    height = max(text.height(name, SMALL_POINTS) for _, name, _ in names)
    axes.set_title(part.title, pad=TITLE_PAD + height * text.POINTS)
    return height


def _parts(drawing: Drawing, events: Sequence[tuple[float, str]]) -> list[_Part]:
    parts = []
    for panel in drawing.panels:
        if drawing.kind == "bars":
            label = _shared_label([drawing.columns[name] for name in panel.lines])
            draw = partial(rows.bars, drawing=drawing, panel=panel)
            lines = next(iter(panel.lines.values()))
            is_whole = all(drawing.columns[name].type == "integer" for name in panel.lines)
            height = rows.height(lines, rows.BAR * len(panel.lines))
            parts.append(_rows_part(panel.title, lines, draw, label, height, is_whole))
            continue
        for name, lines in panel.lines.items():
            measure = drawing.columns[name]
            if panel.unit:
                measure = measure._replace(unit=panel.unit)
            parts += _measure_parts(drawing, panel.title, measure, lines, events)
    if drawing.kind in ("times", "curves"):
        # Axes of one below the other share the label of the lowest.
        parts[:-1] = [part._replace(x_label="") for part in parts[:-1]]
    return parts


def _rows_part(
    title: str,
    lines: Sequence[Line],
    draw: Callable[[Axes], None],
    label: str,
    height: float,
    is_whole: bool,
) -> _Part:
    room = rows.name_room(lines)
    return _Part(height, title, draw, label, "", room, has_rows=True, is_whole=(is_whole, False))


def _measure_parts(
    drawing: Drawing,
    title: str,
    measure: Column,
    lines: Sequence[Line],
    events: Sequence[tuple[float, str]],
) -> list[_Part]:
    label = _label(measure)
    x_label = "" if drawing.x is None else _label(drawing.x)
    is_whole = (drawing.x is not None and drawing.x.type == "integer", measure.type == "integer")
    match drawing.kind:
        case "dots":
            dots = partial(rows.dots, drawing=drawing, lines=lines)
            return [_rows_part(title, lines, dots, label, rows.height(lines), is_whole[1])]
        case "curves":
            curves = partial(over.curves, drawing=drawing, lines=lines)
            return [_Part(CURVES, title, curves, x_label, label, is_whole=is_whole)]
        case "times":
            times = partial(over.times, drawing=drawing, lines=lines, events=events)
            return [_Part(TIMES, title, times, x_label, label, is_whole=is_whole)]
    form = shares.form(lines)
    if form == "beside":
        beside = partial(shares.beside, drawing=drawing, lines=lines)
        height = rows.height(lines, shares.marks(lines))
        part = _rows_part(title, lines, beside, label, height, is_whole[1])
        return [part._replace(figure_room=shares.figure_room(lines))]
    if form == "spread":
        spread = partial(shares.spread, lines=lines)
        return [_rows_part(title, lines, spread, RATIO, rows.height(lines), is_whole=False)]
    parts = [
        _Part(
            POSITIONS,
            ", ".join(filter(None, (title, line.label))),
            partial(shares.over_positions, drawing=drawing, line=line),
            "",
            measure.unit,
            is_whole=is_whole,
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
    words = words_of(column.name)
    is_said = column.unit.lower() in words.lower().split()
    return words if is_said or not column.unit else f"{words}, {column.unit}"


def _legend(figure: Figure, grid: Sequence[Axes], reference: str) -> float:
    """One for all axes, below them, since they tell the same lines apart; its height in inches."""
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) < 2:
        return 0.0
    if reference in entries:
        # What the others are held against comes last.
        entries[reference] = entries.pop(reference)
    room = WIDTH - 2 * PAD - HANDLE
    labels = [text.fold(label, room, LEGEND_POINTS) for label in entries]
    widest = max(text.width(part, LEGEND_POINTS) for label in labels for part in label.split("\n"))
    columns = max(1, min(4, int((room + HANDLE) / (widest + HANDLE))))
    figure.legend(list(entries.values()), labels, loc="outside lower left", ncols=columns)
    highest = max(text.height(label, LEGEND_POINTS) for label in labels)
    return -(-len(labels) // columns) * (highest + LEGEND_GAP) + 0.1


def _saved(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    file = io.BytesIO()
    # SVG has a date, PNG the version of what has written it.
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    figure.savefig(file, format=kind, metadata=nothing[kind], dpi=PIXELS_PER_INCH)
    # The fonts of a machine without this one come close in width.
    return file.getvalue().replace(b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif")


PIXELS_PER_INCH: Final = 144
PAD: Final = 0.09
"""Inches beside axes, texts and legend."""
TICKS: Final = 0.35
"""Inches of the texts of ticks, and between axes."""
CURVES: Final = 1.95
TIMES: Final = 1.3
POSITIONS: Final = 0.85
"""Inches of such axes."""
HANDLE: Final = 0.6
"""Inches of a legend's marks, and between its columns."""
LEGEND_GAP: Final = 0.06
WIDER: Final = 0.08
BOLD: Final = 1.15
"""Of the width of bold letters to that of others."""
TITLE_PAD: Final = 6.0
"""Points between axes and their title: matplotlib's."""
RATIO: Final = "share over fair share, ratio"
