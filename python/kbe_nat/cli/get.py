"""`kbe-nat get`: lists of the Services that the running daemon serves, and of its flows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import click
import msgspec

from kbe_nat.cli.destination import is_name
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import (
    LISTING_FLAGS,
    SELECTION_FLAGS,
    ListingSettings,
    Output,
    SelectionSettings,
)
from kbe_nat.cli.flags.options import Socket, refuse_on_command_line
from kbe_nat.cli.flags.parameters import parameter_names
from kbe_nat.cli.kinds import Resources, resources
from kbe_nat.cli.listing import (
    Listing,
    place_of,
    selection_parameters,
    show_kinds,
)
from kbe_nat.cli.output import document_of, show, show_document
from kbe_nat.cli.state_tables import stats_tables, status_tables
from kbe_nat.cli.verb import HabitCommand, verb
from kbe_nat.cli.views import ENDPOINTS, FLOWS, NODES, SERVICES, SLICES
from kbe_nat.client import DEFAULT_SOCKET, ask, ask_rows
from kbe_nat.daemon.rows import (
    EndpointRow,
    FlowRow,
    NodeRow,
    RulesRow,
    ServiceRow,
    SliceRow,
    StatsRow,
    StatusRow,
)
from kbe_nat.errors import NotFoundError, SettingError
from kbe_nat.sources.address import split_address

LISTS: Final[dict[str, tuple[Listing[Any], type[Any], str]]] = {
    "services": (SERVICES, ServiceRow, "services"),
    "endpoints": (ENDPOINTS, EndpointRow, "endpoints"),
    "endpointslices": (SLICES, SliceRow, "slices"),
    "nodes": (NODES, NodeRow, "nodes"),
    "flows": (FLOWS, FlowRow, "flows"),
}
"""How each kind is listed, its row, and the verb of the control socket."""
DOCUMENTS: Final[dict[str, tuple[type[msgspec.Struct], Callable[[Any], list[Any]]]]] = {
    "rules": (RulesRow, lambda row: [row.text.removesuffix("\n")]),
    "stats": (StatsRow, stats_tables),
    "status": (StatusRow, status_tables),
}
"""What is no list: its row, and its tables for people."""
KINDS: Final = (*LISTS, *DOCUMENTS)
SELECTION: Final = (
    *parameter_names(SELECTION_FLAGS),
    *parameter_names({**LISTING_FLAGS, "output": None}),
)
"""Flags that say which rows of a list are meant, and in which order."""


class GetCommand(HabitCommand):
    """`kbe-nat get`, which has most of kubectl's flags."""

    refused: Mapping[str, str] = {
        **dict.fromkeys(
            ("-L", "--label-columns"),
            "--show-labels shows all labels of Services, and -o jsonpath= those that it names",
        ),
        "--watch-only": "-w begins with what there is; --output-watch-events tells it from changes",
        "--field-selector": "-l selects by labels; -o jsonpath='{.items[?(@.active>0)].name}' and"
        " awk by fields",
        "--template": "templates are those of -o jsonpath=",
    }


@verb(kind=GetCommand, listing=LISTING_FLAGS, selection=SELECTION_FLAGS)
def get(
    command: click.Context,
    words: Annotated[
        list[str],
        Argument(
            help="services, endpoints, endpointslices, nodes, flows, rules, stats or status, by"
            " kubectl's short names too, and names of Services: KIND NAME, or KIND/NAME.",
            metavar="KIND [NAME...]",
            type=Resources(tuple(KINDS)),
        ),
    ],
    limit: Annotated[int, Flag(min=1, help="Flows, at most.")] = 1000,
    *,
    listing: ListingSettings,
    selection: SelectionSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> int:
    """List what the running daemon serves and carries.

    A name is that of a Service, NAMESPACE/NAME, or of one of its ports, NAMESPACE/NAME:PORT;
    without a namespace that of -n counts, or default. Endpointslices have names of their own, too.
    Endpoints may be named by ADDRESS or ADDRESS:PORT.
    Names that nothing has end the verb with 1, behind what the others have.

    Examples:
      kbe-nat get svc
      kbe-nat get endpoints web -n shop -o wide
      kbe-nat get svc -l app=web --sort-by .active
      kbe-nat get svc,ep shop/web:http
      kbe-nat get flows web -o json
      kbe-nat get svc -o jsonpath='{range .items[*]}{.name}{"\\n"}{end}'
    """
    things = resources(words, tuple(KINDS), "get")
    _check(command, things, listing)

    look_of = partial(_look_of, socket, selection, limit)

    def show_kind(kind: str, names: Sequence[str]) -> None:
        if kind in DOCUMENTS:
            _show_document(kind, socket, listing.output)
        else:
            look = look_of(kind, names)
            LISTS[kind][0].show(look, listing, place_of(selection), names)

    def documents(kind: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        if kind in DOCUMENTS:
            yield from map(document_of, ask(socket, kind, DOCUMENTS[kind][0]))
        else:
            yield from LISTS[kind][0].documents(look_of(kind, names), listing)

    return show_kinds(things, listing, show_kind, documents)


def _check(command: click.Context, things: dict[str, list[str]], listing: ListingSettings) -> None:
    """Raises `SettingError` for flags and names that have no effect on these kinds."""
    if "flows" not in things:
        refuse_on_command_line(command, ["limit"], f"it has no effect on {', '.join(things)}")
    if {*things} == {"nodes"}:
        refuse_on_command_line(
            command, ["namespace", "all_namespaces"], "nodes are in no namespace"
        )
    if "nodes" in things:
        refuse_on_command_line(command, ["selector"], "labels of nodes are not followed")
    for kind in (kind for kind in things if kind in DOCUMENTS):
        refuse_on_command_line(command, SELECTION, f"it has no effect on {kind}")
        if things[kind]:
            raise SettingError("NAME", f"there are no names of {kind}")
        if listing.output.form == "name":
            raise SettingError("--output", f"there are no names of {kind}")


def _look_of(
    socket: Path, selection: SelectionSettings, limit: int, kind: str, names: Sequence[str]
) -> Callable[[], Iterator[Any]]:
    """What asks for the rows of a kind."""
    _, row, verb_name = LISTS[kind]
    if kind == "endpoints" and (addresses := [each for each in names if not is_name(each)]):
        services = [each for each in names if is_name(each)]
        return partial(_at, socket, addresses, services, selection)
    wanted: dict[str, object] = {"names": names} if kind == "nodes" and names else {}
    if kind != "nodes":
        wanted = selection_parameters(selection, names)
    if kind == "flows":
        wanted["limit"] = limit
    return partial(ask_rows, socket, verb_name, row, **wanted)


def _at(
    socket: Path, addresses: Sequence[str], services: Sequence[str], selection: SelectionSettings
) -> Iterator[EndpointRow]:
    """The endpoints at addresses, and those of Services. Raises `NotFoundError` behind them."""
    wanted = selection_parameters(selection, ())
    rows = [
        (row, {row.backend, split_address(row.backend)[0]})
        for row in ask_rows(socket, "endpoints", EndpointRow, **wanted)
    ]
    yield from (row for row, places in rows if not places.isdisjoint(addresses))
    if services:
        named = selection_parameters(selection, services)
        yield from ask_rows(socket, "endpoints", EndpointRow, **named)
    if missing := [each for each in addresses if not any(each in places for _, places in rows)]:
        raise NotFoundError("endpoints", *missing)


def _show_document(kind: str, socket: Path, output: Output) -> None:
    row, tables = DOCUMENTS[kind]
    (document,) = ask(socket, kind, row)
    if output.is_table:
        show(*tables(document))
    else:
        show_document(document, output)
