"""SVG of matplotlib in a page: in the page's colours, with nothing that its policy forbids.

A page's policy allows its own style sheet, and no `style` attributes. So properties become
attributes of the same names, and each colour of `kbe_nat.lab.plots.style` a variable of the sheet,
which has other values on dark ground. Identifiers get a prefix: a page has several pictures.
"""

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from kbe_nat.lab.plots.style import DIM, INK, PALETTE, RULE


def inline(svg: bytes, name: str, words: str) -> str:
    """The picture as an element of HTML; `words` are read out in its place."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = dict(_attributes(element, name))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib = {
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "height": height,
        # Where a page is too low for a picture, it stays at the left.
        "preserveAspectRatio": "xMinYMin meet",
        "role": "img",
        "aria-label": words,
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _attributes(element: Element, prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        local = name.rpartition("}")[2]
        if local == "style":
            for rule in filter(None, map(str.strip, value.split(";"))):
                property_name, _, setting = rule.partition(":")
                # The page's font, in the size of the picture.
                if property_name != "font-family":
                    yield property_name, _text(setting.strip(), prefix)
        elif local == "id":
            # Most are never referred to, and a third of the picture's size.
            if element.tag in REFERRED or value[0] in HASHED:
                yield "id", f"{prefix}-{value}"
        elif local == "href":
            yield "href", f"#{prefix}-{value.removeprefix('#')}"
        else:
            yield local, _text(value, prefix)


def _text(value: str, prefix: str) -> str:
    if colour := VARIABLES.get(value):
        return f"var({colour})"
    return re.sub(r"url\(#", f"url(#{prefix}-", value)


VARIABLES: Final = {
    INK: "--ink",
    DIM: "--dim",
    RULE: "--rule",
    "#ffffff": "--panel",
    **{colour: f"--c{place}" for place, colour in enumerate(PALETTE)},
}
"""Variables of the style sheet by the colours of plots."""
REFERRED: Final = ("clipPath", "pattern", "path")
HASHED: Final = "mph"
"""First letters of identifiers that matplotlib refers to."""
