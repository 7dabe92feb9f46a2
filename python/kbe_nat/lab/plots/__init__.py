"""The plots of a run: SVG and PNG, by matplotlib.

`catalog` lists them, `series` reads their data, the others draw. matplotlib is in the extra `lab`;
nothing of it is imported before something is drawn.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kbe_nat.errors import LabError
from kbe_nat.lab.comparability import comparable_tables
from kbe_nat.lab.folder import write_whole
from kbe_nat.lab.plots.catalog import PLOTS
from kbe_nat.lab.plots.series import Drawing, drawing
from kbe_nat.lab.result import Result

if TYPE_CHECKING:
    from kbe_nat.lab.plots.figures import Picture


def pictures(results: Sequence[Result]) -> Iterator[tuple[Drawing, "Picture"]]:
    """All plots that a run has, or several runs beside each other. Raises `LabError` without
    matplotlib. Cost: a third of a second each.
    """
    try:
        from kbe_nat.lab.plots.figures import picture, sheets
    except ImportError as error:
        raise LabError(f"plots need matplotlib: pip install 'kbe-nat[lab]' ({error})") from None
    events = events_of(results[0])
    tables = comparable_tables(results)
    for plot in PLOTS:
        image = drawing(results, plot) if plot.table in tables else None
        for sheet in () if image is None else sheets(image):
            yield sheet, picture(sheet, events)


def write_pictures(results: Sequence[Result], folder: Path) -> list[tuple[Drawing, "Picture"]]:
    """Draw all plots into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = list(pictures(results))
    for each, image in drawn:
        write_whole(folder / f"{each.plot.name}.svg", image.svg)
        write_whole(folder / f"{each.plot.name}.png", image.png)
    return drawn


def events_of(result: Result) -> list[tuple[float, str]]:
    """The timeline of a run: moments with events in words."""
    if "events" not in result.tables:
        return []
    return sorted({(row["time"], row["event"]) for row in result.rows("events")})
