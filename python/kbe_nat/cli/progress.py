"""A bar on standard error that says how far a verb is, and how long it will take."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from kbe_nat.cli.terminal import is_drawn_on


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much of the total is finished. Only a terminal shows the
    bar, and only where there is a total.
    """
    is_hidden = not total or not is_drawn_on(sys.stderr)
    with click.progressbar(
        length=total or 1, label=label, file=sys.stderr, hidden=is_hidden
    ) as bar:
        yield lambda position: bar.update(position - bar.pos)
