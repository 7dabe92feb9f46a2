"""The report of runs as one HTML file that needs nothing else: no network, no other file.

Its policy lets a browser run its own script and use its own style sheet, by their digests, and
nothing else; every text of a scenario is escaped by the template engine. `page.html` is the
template; `svg` puts plots into it; words come from `kbe_nat.lab.measures`.
"""

from collections.abc import Sequence
from pathlib import Path

from kbe_nat.errors import LabError
from kbe_nat.lab.comparability import check_comparable
from kbe_nat.lab.folder import write_whole
from kbe_nat.lab.plots import pictures, write_pictures
from kbe_nat.lab.result import Result


def write_report(
    results: Sequence[Result], file: str | Path, plots: str | Path | None = None
) -> None:
    """Write the report on a run, or on several beside each other, and its plots as files too when
    there is a folder for them. Raises `LabError` for runs that cannot be compared, where the file
    cannot be written, and without matplotlib and Jinja (`pip install kbe-nat[lab]`). Cost: half a
    second for each plot.
    """
    try:
        from kbe_nat.lab.html.page import page
    except ImportError as error:
        raise LabError(
            f"HTML reports need Jinja and matplotlib: pip install 'kbe-nat[lab]' ({error})"
        ) from None
    check_comparable(results)
    file = Path(file)
    try:
        drawn = list(pictures(results)) if plots is None else write_pictures(results, Path(plots))
        write_whole(file, page(results, drawn, file.parent).encode())
    except OSError as error:
        raise LabError(f"{error.filename or file}: {error.strerror}") from None
