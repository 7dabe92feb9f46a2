"""How plots look: colours of Okabe and Ito, which the colour-blind tell apart, beside line styles,
markers and hatches, which grey print shows too.

Colours are written as these very numbers and as nothing else. So a page can exchange each for a
variable of its style sheet, and show one picture on light and dark ground.
"""

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

Dashes: TypeAlias = str | tuple[int, tuple[float, ...]]

INK: Final = "#1b1f24"
DIM: Final = "#59636e"
RULE: Final = "#d5dae0"
PALETTE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4c9a")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: Final[tuple[Dashes, ...]] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
HATCHES: Final = ("", "////", "....", "xxxx", "\\\\\\\\", "----")
FONT: Final = "DejaVu Sans"
WIDTH: Final = 6.0
"""Inches: a column of a page, or half of a screen."""
TALLEST: Final = 9.3
"""Inches: of paper at this width. What is taller is spread over several pictures."""
LABEL_POINTS: Final = 8.5
"""Size of names of rows."""
SMALL_POINTS: Final = 7.5
"""Size of figures and events beside what is drawn."""
LEGEND_POINTS: Final = 8
TITLE_POINTS: Final = 9
"""Size of titles and labels of axes."""
HEADING_POINTS: Final = 10.5
SETTINGS: Final["dict[RcKeyType, object]"] = {
    "axes.edgecolor": DIM,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": TITLE_POINTS,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": TITLE_POINTS,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "figure.titlesize": HEADING_POINTS,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": FONT,
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": LEGEND_POINTS,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": DIM,
    "xtick.labelcolor": INK,
    "xtick.labelsize": LABEL_POINTS,
    "ytick.color": DIM,
    "ytick.labelcolor": INK,
    "ytick.labelsize": LABEL_POINTS,
    # Texts stay texts: small, to be searched, and in the fonts of whoever shows them.
    "svg.fonttype": "none",
    "svg.hashsalt": "kbe-nat",
}
"""Of matplotlib. The salt makes equal plots equal files."""


def colour(place: int) -> str:
    """Of the line, bar or mark at this place."""
    return PALETTE[place % len(PALETTE)]


def marker(place: int) -> str:
    """Likewise. The numbers of colours, markers and lines have no common divisor, so that
    combinations repeat late.
    """
    return MARKERS[place % len(MARKERS)]


def line(place: int) -> Dashes:
    """Likewise."""
    return LINES[place % len(LINES)]


def hatch(place: int) -> str:
    """Likewise."""
    return HATCHES[place % len(HATCHES)]
