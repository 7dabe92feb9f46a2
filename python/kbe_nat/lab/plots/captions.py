"""What stands below a plot: the words of its measures, and of what was drawn, which depends on the
run: how many repeats, backends and strategies it has.
"""

from collections.abc import Iterator

from kbe_nat.lab.plots import shares
from kbe_nat.lab.plots.series import Drawing


def caption(drawing: Drawing, has_events: bool) -> str:
    """In sentences."""
    return " ".join((drawing.plot.caption, *_forms(drawing, has_events)))


def _forms(drawing: Drawing, has_events: bool) -> Iterator[str]:
    lines = [line for panel in drawing.panels for each in panel.lines.values() for line in each]
    has_repeats = any(len(point.samples) > 1 for line in lines for point in line.points.values())
    match drawing.kind:
        case "dots" if has_repeats:
            yield "Faint marks are single repeats."
        case "bars" if drawing.plot.is_share and drawing.note:
            yield "Bars are the median over all events, lines go from the least to the greatest."
        case "times":
            if has_repeats:
                yield "Lines are means over repeats, without their intervals."
            if has_events:
                yield "Vertical lines are the events of the timeline."
        case "shares":
            yield _shares(drawing)


def _shares(drawing: Drawing) -> str:
    forms = {shares.form(each) for panel in drawing.panels for each in panel.lines.values()}
    if "spread" in forms:
        return "Each stroke is a backend: its share over its fair one, without intervals."
    return "Lines are the fair shares."
