"""Write the method and the measures into docs/research.md, of `kbe_nat.lab.measures`.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from written import write

from kbe_nat.lab.measures import MEASURES, METHOD, Mode

PAGE: Final = Path(__file__).parents[1] / "docs/research.md"


def page(before: str) -> str:
    """The page with all that stands between its marks written anew."""
    parts = {
        "measures": "\n".join(measures()),
        "offline method": "\n\n".join(method("offline")),
        "live method": "\n\n".join(method("live")),
    }
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"(?<={re.escape(begin)}\n).*(?={re.escape(end)})", re.DOTALL)
        before = pattern.sub(f"{text}\n".replace("\\", r"\\"), before)
    return before


def measures() -> Iterator[str]:
    """The table of measures."""
    yield "| measure | means | does not mean |\n|---|---|---|"
    for measure in MEASURES:
        yield f"| {measure.names} | {measure.means} | {measure.caveat} |"


def method(mode: Mode) -> Iterator[str]:
    """Its paragraphs."""
    for passage in METHOD:
        if mode in passage.modes:
            yield textwrap.fill(f"**{passage.title}.** {passage.text}", 120, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(write(PAGE, page(PAGE.read_text()), __doc__))
