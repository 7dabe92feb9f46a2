"""`kbe-nat decisions`: what became of first packets, after the fact."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import (
    LISTING_FLAGS,
    SELECTION_FLAGS,
    TEXT,
    ListingSettings,
    Output,
    SelectionSettings,
    output_flag,
)
from kbe_nat.cli.flags.options import Socket, warn
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.jsonpath import Path
from kbe_nat.cli.kinds import NAMES, service_name
from kbe_nat.cli.listing import Column, Listing, place_of, selection_parameters, warn_of_room
from kbe_nat.cli.output import document_of, show_next
from kbe_nat.cli.table import cut, fitting
from kbe_nat.cli.terminal import terminal_width
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask, ask_rows
from kbe_nat.daemon.rows import DecisionAction, DecisionRow, StatsRow
from kbe_nat.errors import SettingError


@dataclass(frozen=True)
class DecisionSettings:
    """How decisions are written; they are watched by -f."""

    output: Output = TEXT
    no_headers: bool = False
    sort_by: Path | None = None


DECISION_FLAGS: Final[Flags] = {
    "output": output_flag("text", "wide", "yaml", "json"),
    "no_headers": LISTING_FLAGS["no_headers"],
    "sort_by": LISTING_FLAGS["sort_by"],
}


@dataclass(frozen=True)
class DecisionFilter:
    """Decisions that are meant; empty and None stand for any."""

    service: str = ""
    client: str = ""
    verdict: DecisionAction | None = None
    since: float | None = None
    """Seconds ago."""
    limit: int = 100
    is_followed: bool = False

    def parameters(self) -> dict[str, object]:
        """What the daemon is asked for, but for the Service."""
        wanted = {"client": self.client, "verdict": self.verdict, "seconds": self.since}
        filters = {name: value for name, value in wanted.items() if value not in ("", None)}
        return {**filters, "limit": self.limit, "is_followed": self.is_followed}


FILTER_FLAGS: Final[Flags] = {
    "service": TextFlag(Flag("--service", help="As a NAME.", names_of="services"), service_name),
    "client": Flag("--client", metavar="ADDRESS", help="Only this client's."),
    "verdict": Flag("--verdict", help="Only this verdict."),
    "since": Flag(
        "--since", min=0, is_duration=True, help="Only as old as that, such as 90s, 5m or 2h."
    ),
    "limit": Flag("--limit", min=0, help="The newest so many; with -f before these."),
    "is_followed": Flag(
        "--follow", "--watch", "-f", "-w", help="Show new ones, too, until Ctrl-C."
    ),
}


@verb(listing=DECISION_FLAGS, selection=SELECTION_FLAGS, filters=FILTER_FLAGS)
def decisions(
    names: Annotated[list[str], NAMES] = [],  # noqa: B006
    *,
    filters: DecisionFilter,
    listing: DecisionSettings,
    selection: SelectionSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Show the latest decisions of the running daemon about first packets: which backend a
    connection got, or why it was refused, with the endpoints as they were then.

    Examples:
      kbe-nat decisions web -n shop --since 5m
      kbe-nat decisions --client 10.0.2.15 --verdict reject
      kbe-nat decisions -f -o json
    """
    chosen = [*names, *([filters.service] if filters.service else [])]
    wanted = selection_parameters(selection, chosen) | filters.parameters()
    rows = ask_rows(socket, "decisions", DecisionRow, **wanted)
    settings = ListingSettings(listing.output, listing.no_headers, listing.sort_by)
    if filters.verdict in (None, DecisionAction.TRANSLATE):
        _warn_of_kernel(socket)
    if not filters.is_followed:
        DECISIONS.show(lambda: rows, settings, place_of(selection), chosen)
        return
    if listing.sort_by is not None:
        raise SettingError("--sort-by", "it has no effect: with -f rows come as they are made")
    heading = [] if listing.no_headers else [COLUMNS]
    is_wide = listing.output.form == "wide" or not listing.output.is_table
    spare = [] if is_wide else [COLUMNS.index(title) for title in DECISIONS.spare]
    places = fitting(WIDTHS, spare, 2, terminal_width())
    is_first = True
    for row in rows:
        if listing.output.is_table:
            # Ahead of the first row: a name of nothing is said without any.
            if is_first:
                warn_of_room([each for place, each in enumerate(COLUMNS) if place not in places])
            for line in (*heading, cells(row)):
                _print_followed(line, places)
            heading, is_first = [], False
        else:
            show_next(document_of(row), listing.output)


def _warn_of_kernel(socket: FilePath) -> None:
    """Say that the list lacks what the kernel chooses, where it chooses anything."""
    (stats,) = ask(socket, "stats", StatsRow)
    if count := stats.kernel.get(CHOSEN_BY_KERNEL, 0):
        frontends = "1 frontend" if count == 1 else f"{count} frontends"
        warn(
            f"the kernel chooses for {frontends}: those connections are not among the decisions;"
            " kbe-nat conntrack -L lists them"
        )


def _print_followed(texts: Sequence[str], places: Sequence[int]) -> None:
    """A line of decisions that come one by one, in columns as wide as most are."""
    line = "  ".join(texts[place].ljust(WIDTHS[place]) for place in places).rstrip()
    print(cut(line, terminal_width(), 0), flush=True)


def _cell(place: int, row: DecisionRow) -> str:
    return cells(row)[place]


def cells(row: DecisionRow) -> list[str]:
    """A decision as text, by column."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(row.time))
    return [
        f"{moment}.{int(row.time % 1 * 10)}",
        row.protocol,
        row.client,
        row.frontend,
        row.service or "-",
        row.backend or f"{row.verdict}:{row.cause}",
        row.choice or "-",
        "-" if row.endpoint_count is None else str(row.endpoint_count),
    ]


CHOSEN_BY_KERNEL: Final = "frontends-chosen-by-kernel"
"""A counter of the datapath."""
COLUMNS: Final = (
    "time",
    "proto",
    "client",
    "frontend",
    "service-port",
    "backend-or-why-none",
    "chosen-by",
    "endpoints-then",
)
WIDTHS: Final = (21, 5, 21, 21, 24, 27, 11, 14)
"""Of these columns, while decisions are followed."""
DECISIONS: Final = Listing[DecisionRow](
    "Decision",
    tuple(Column[DecisionRow](title, partial(_cell, place)) for place, title in enumerate(COLUMNS)),
    spare=("endpoints-then", "chosen-by", "proto", "service-port", "frontend"),
)
