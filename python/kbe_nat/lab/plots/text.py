"""Texts in plots: how wide they are, and folded into the room that there is.

Names of strategies, Services and events come from scenarios, and can be of any length. A text is
folded by its measured width, behind the marks that join its parts where it can, and within a word
where it must. Nothing is cut: rows must be told apart.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from kbe_nat.lab.plots.style import FONT


@lru_cache(maxsize=4096)
def width(text: str, points: float) -> float:
    """Inches of a line in this size."""
    font = FontProperties(family=FONT, size=points)
    with font_may_lack_letters():
        across, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(across) / POINTS


@contextmanager
def font_may_lack_letters() -> Iterator[None]:
    """Does not warn of it: texts of SVG are in the reader's fonts, which have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def fold(text: str, room: float, points: float) -> str:
    """The text in lines of so many inches at most."""
    lines = [""]
    for piece in _pieces(text, room, points):
        if lines[-1] and width((lines[-1] + piece).rstrip(), points) > room:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines if line.strip())


def _pieces(text: str, room: float, points: float) -> Iterator[str]:
    """Parts that have room in a line, as large as they can be."""
    for piece in STRONG.findall(text):
        if width(piece.rstrip(), points) <= room:
            yield piece
            continue
        for part in WEAK.findall(piece):
            yield from [part] if width(part, points) <= room else part


def height(text: str, points: float) -> float:
    """Inches of a folded text."""
    return (text.count("\n") + 1) * points * SPACING / POINTS if text else 0.0


POINTS: Final = 72
"""Of an inch."""
SPACING: Final = 1.25
"""From line to line, in font sizes."""
STRONG: Final = re.compile(r"[^\s·,;(]*[\s·,;(]+|[^\s·,;(]+")
WEAK: Final = re.compile(r"[^-_=:/.]*[-_=:/.]+|[^-_=:/.]+")
"""Where a text is folded, and where only if it must be."""
