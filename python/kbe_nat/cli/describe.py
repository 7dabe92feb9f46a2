"""`kbe-nat describe`: everything about Services of the running daemon."""

import sys
from functools import partial
from typing import Annotated, Final

from kbe_nat.cli.flags.flag import Argument
from kbe_nat.cli.flags.listing import (
    DOCUMENT_FLAGS,
    SELECTION_FLAGS,
    DocumentSettings,
    ListingSettings,
    SelectionSettings,
)
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.kinds import Resources, resources
from kbe_nat.cli.listing import Listing, place_of, selection_parameters
from kbe_nat.cli.output import connect
from kbe_nat.cli.verb import verb
from kbe_nat.cli.views import frontend_text, labels_text
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import ConnectRow, DescriptionRow, Pair

KINDS: Final = ("services",)


@verb(document=DOCUMENT_FLAGS, selection=SELECTION_FLAGS)
def describe(
    words: Annotated[
        list[str],
        Argument(
            help="service, and its name: NAME, NAMESPACE/NAME or NAMESPACE/NAME:PORT; or"
            " service/NAME.",
            metavar="KIND [NAME...]",
            type=Resources(KINDS),
        ),
    ],
    *,
    document: DocumentSettings,
    selection: SelectionSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Show everything about Services that the running daemon serves.

    Examples:
      kbe-nat describe service web
      kbe-nat describe svc/web -n shop
      kbe-nat describe svc -l app=web -o yaml
    """
    names = resources(words, KINDS, "describe")["services"]
    output = document.output
    wanted = selection_parameters(selection, names)
    look = partial(ask_rows, socket, "describe", DescriptionRow, **wanted)
    if output.is_document:
        DESCRIPTIONS.show(look, ListingSettings(output), names=names)
        return
    is_empty = True
    for row in look():
        if not is_empty:
            print()
        is_empty = False
        for label, value in _lines(row):
            print(f"{label + ':':<26}{value}".rstrip())
    if is_empty:
        print(f"No resources found{place_of(selection)}.", file=sys.stderr)


def _lines(row: DescriptionRow) -> list[tuple[str, object]]:
    seconds = row.affinity_seconds
    lines: list[tuple[str, object]] = [
        ("Service port", row.service),
        ("Protocol", f"{row.protocol}, IPv{row.family}"),
        ("Labels", labels_text(row)),
        ("Frontends", ", ".join(map(frontend_text, row.frontends))),
        ("Strategy", row.strategy),
        ("Session Affinity", "None" if seconds is None else f"ClientIP, {seconds} s"),
        ("Internal Traffic Policy", row.internal_traffic_policy),
        ("External Traffic Policy", row.external_traffic_policy),
        ("Source Ranges", ", ".join(row.source_ranges) or "<any>"),
        ("Connections", f"{row.active} now, {row.flows} so far"),
        ("Packets", _both_ways(row.packets)),
        ("Bytes", _both_ways(row.bytes)),
        ("Connect Time", _connect_time(row.connect)),
        ("Refused", ", ".join(f"{n} {cause}" for cause, n in row.refused.items()) or "<none>"),
        ("Endpoints", "" if row.endpoints else "<none>"),
    ]
    for endpoint in row.endpoints:
        state = f", {endpoint.state}" if endpoint.state else ""
        counts = f"{endpoint.active} active, {endpoint.flows} so far"
        if endpoint.connect:
            counts += f", answers in {_connect_time(endpoint.connect)}"
        lines.append((f"  {endpoint.backend}", f"weight {endpoint.weight}{state}: {counts}"))
    return lines


def _both_ways(counts: Pair | None) -> str:
    return (
        "<none> (not counted)" if counts is None else f"{counts[0]} to backends, {counts[1]} back"
    )


def _connect_time(times: ConnectRow | None) -> str:
    return "<none>" if times is None else "{}, 99 % within {}".format(*connect(times))


DESCRIPTIONS: Final = Listing[DescriptionRow]("ServiceDescription", (), is_one_row=True)
