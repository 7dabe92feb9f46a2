"""`kbe-nat describe`: everything about one Service of the running daemon."""

from enum import StrEnum
from typing import Annotated

from kbe_nat.cli.flags.flag import Argument
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket
from kbe_nat.cli.output import connect, show_json_rows, traffic
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import DescriptionRow


class Described(StrEnum):
    """Kinds of objects that can be described."""

    SERVICE = "service"


@verb()
def describe(
    kind: Annotated[Described, Argument(help="What it is.")],
    name: Annotated[str, Argument(help="namespace/name, or namespace/name:port.")],
    socket: Socket = DEFAULT_SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Show everything about a Service that the running daemon serves."""
    ports = ask_rows(
        socket, "describe", DescriptionRow, service=name if "/" in name else f"default/{name}"
    )
    if output is Format.JSON:
        show_json_rows(ports)
        return
    for row in ports:
        for label, value in _lines(row):
            print(f"{label + ':':<26}{value}".rstrip())
        print()


def _lines(row: DescriptionRow) -> list[tuple[str, object]]:
    seconds = row.affinity_seconds
    lines: list[tuple[str, object]] = [
        ("Service port", row.name),
        ("Protocol", f"{row.protocol}, IPv{row.family}"),
        ("Frontends", ", ".join(row.frontends)),
        ("Strategy", row.strategy),
        ("Session Affinity", "None" if seconds is None else f"ClientIP, {seconds} s"),
        ("Internal Traffic Policy", row.internal_traffic_policy),
        ("External Traffic Policy", row.external_traffic_policy),
        ("Source Ranges", ", ".join(row.source_ranges) or "<any>"),
        ("Connections", f"{row.active} now, {row.flows} so far"),
        ("Packets", "{} to backends, {} back".format(*traffic(row.packets, row.bytes)[:2])),
        ("Bytes", "{} to backends, {} back".format(*traffic(row.packets, row.bytes)[2:])),
        ("Connect Time", "{}, 99 % within {}".format(*connect(row.connect))),
        ("Refused", ", ".join(f"{n} {cause}" for cause, n in row.refused.items()) or "<none>"),
        ("Endpoints", "" if row.endpoints else "<none>"),
    ]
    for endpoint in row.endpoints:
        state = f", {endpoint.state}" if endpoint.state else ""
        counts = f"{endpoint.active} connections now, {endpoint.flows} so far"
        if endpoint.connect:
            counts += ", answers in {}, 99 % within {}".format(*connect(endpoint.connect))
        lines.append((f"  {endpoint.backend}", f"weight {endpoint.weight}{state}: {counts}"))
    return lines
