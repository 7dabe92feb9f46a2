"""The fates of a replay's packets: per service and backend, and by cause of refusal."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from kbe_nat._native import ServiceStats, Stats
from kbe_nat.cli.comparison import ComparisonRow
from kbe_nat.cli.output import table
from kbe_nat.counting import counted
from kbe_nat.model import join_address
from kbe_nat.port_rows import PortRow, port_fields

Pair: TypeAlias = tuple[int, int]
"""There and back."""


class CarriedBackendRow(msgspec.Struct, frozen=True):
    """The part of one backend in a replay."""

    backend: str
    """Address and port."""
    flows: int
    """Connections that it got."""
    active: int
    """Connections that the capture has not ended."""
    packets: Pair
    """Packets of these connections, there and back."""
    bytes: Pair
    """Their bytes, of the IP packets, there and back."""


class CarriedServiceRow(PortRow, frozen=True):
    """The part of one service port in a replay."""

    flows: int
    """Connections to it."""
    active: int
    """Connections that the capture has not ended."""
    packets: Pair
    """Packets of these connections, there and back."""
    bytes: Pair
    """Their bytes, of the IP packets, there and back."""
    refused: dict[str, int]
    """Packets that were refused, by cause."""
    backends: list[CarriedBackendRow]
    """Its backends."""


class ReplayRow(msgspec.Struct, frozen=True):
    """`replay`: the fates of a capture's packets."""

    capture: str
    """The file."""
    seed: int
    """Of random choices."""
    packets: int
    """Packets that were read."""
    actions: dict[str, int]
    """Packets by verdict."""
    causes: dict[str, int]
    """Packets by the action's cause."""
    flows: int
    """Connections to Services."""
    services: list[CarriedServiceRow]
    """Every service port."""
    refused_without_service: dict[str, int]
    """Packets that were refused and belong to no service port, by cause."""
    unread_link_types: dict[str, int]
    """Frames that were left alone, by the number of their link type."""
    ends_within: str | None
    """The packet or block within which the file ends; null for a whole file."""
    comparison: ComparisonRow | msgspec.UnsetType = msgspec.UNSET
    """The differences under the objects of --compare, where these are given."""


def summary(
    capture: str, seed: int, stats: Stats, unread: Mapping[int, int], cut: str | None
) -> ReplayRow:
    """The counters of a replay. `unread` and `cut` are those of the `CaptureQueue`."""
    attributed: dict[str, int] = {}
    for service in stats.services:
        for cause, packets in service.refused.items():
            attributed[cause] = attributed.get(cause, 0) + packets
    elsewhere = {
        cause: packets - attributed.get(cause, 0)
        for cause, packets in stats.causes.items()
        if cause not in CARRIED and packets > attributed.get(cause, 0)
    }
    return ReplayRow(
        capture=capture,
        seed=seed,
        packets=sum(stats.actions.values()),
        actions=dict(stats.actions),
        causes=dict(stats.causes),
        flows=sum(service.flows for service in stats.services),
        services=[_service(service) for service in stats.services],
        refused_without_service=elsewhere,
        unread_link_types={str(number): frames for number, frames in unread.items()},
        ends_within=cut,
    )


def tables(result: ReplayRow) -> list[Any]:
    """The same for people."""
    actions = ", ".join(
        f"{number} {ACTION_WORDS.get(name, name)}"
        for name, number in result.actions.items()
        if number
    )
    total = f"{counted(result.packets, 'packet')} of {result.capture}, seed {result.seed}"
    title = f"{total}: {actions or 'no packet'}"
    carried = table(
        "Services",
        "service",
        "backend",
        "flows",
        "packets",
        "packets-back",
        "bytes",
        "bytes-back",
        right=5,
        spare=("bytes-back", "bytes", "packets-back", "packets"),
    )
    refused = table("Refused", "service", "cause", "packets", right=1)
    for service in result.services:
        carried.add_row(service.service, "<all>", *_numbers(service))
        for backend in service.backends:
            carried.add_row(service.service, backend.backend, *_numbers(backend))
        for cause, packets in service.refused.items():
            refused.add_row(service.service, cause, str(packets))
    for cause, packets in result.refused_without_service.items():
        refused.add_row("<none>", cause, str(packets))
    unread = table("Not read, left alone", "link-type", "frames", right=1)
    for number, frames in result.unread_link_types.items():
        unread.add_row(number, str(frames))
    parts = [title, "", carried]
    for rows in (refused, unread):
        parts += ["", rows] if rows.row_count else []
    return parts


def doubts(result: ReplayRow) -> list[str]:
    """Warnings against taking the counters for those of a whole capture."""
    lines = []
    capture, unread = result.capture, result.unread_link_types
    if result.ends_within:
        lines.append(f"{capture}: {_cut(result.ends_within)}; what is before it counts")
    if unread and sum(unread.values()) == result.packets:
        types = ", ".join(unread)
        lines.append(
            f"{capture}: none of its frames is of a link type that is read (link type {types}): "
            "Ethernet, raw IP, NULL, LOOP and Linux cooked are"
        )
    return lines


def _cut(place: str) -> str:
    """A place such as `packet 7 (byte 480)` as a sentence."""
    record, _, offset = place.partition(" (")
    return f"{record}: the file ends within it ({offset}"


def _service(service: ServiceStats) -> CarriedServiceRow:
    return CarriedServiceRow(
        **port_fields(service.name),
        flows=service.flows,
        active=service.active,
        packets=service.packets,
        bytes=service.bytes,
        refused=dict(service.refused),
        backends=[
            CarriedBackendRow(
                backend=join_address(backend.address, backend.port),
                flows=backend.flows,
                active=backend.active,
                packets=backend.packets,
                bytes=backend.bytes,
            )
            for backend in service.backends
        ],
    )


def _numbers(row: CarriedServiceRow | CarriedBackendRow) -> list[str]:
    return list(map(str, (row.flows, *row.packets, *row.bytes)))


CARRIED: Final = frozenset(
    ("established", "new", "related", "fragment", "fragment-held", "not-ours", "invalid")
)
"""Causes of packets that went on, or wait; an invalid one that was dropped is counted at its
service.
"""
ACTION_WORDS: Final = {
    "pass": "passed",
    "translate": "translated",
    "drop": "dropped",
    "reject": "rejected",
    "hold": "held",
}
