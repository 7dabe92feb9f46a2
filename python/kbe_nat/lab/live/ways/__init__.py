"""Ways through a node by their names. `register` adds one from outside."""

from typing import Final

from kbe_nat.lab.live.ways.way import Way

WAYS: Final[dict[str, Way]] = {}
"""In the order in which they are shown."""


def register(way: Way) -> None:
    """Add a way, such as a yardstick that does not ship."""
    WAYS[way.name] = way
