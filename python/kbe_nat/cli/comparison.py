"""The same packets under other objects: flows that would go elsewhere, be refused, or be served."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from kbe_nat import packets as wire
from kbe_nat._native import ACTIONS, CAUSES, EXPIRY_BUDGET, Engine
from kbe_nat.cli.original_packets import OriginalPackets
from kbe_nat.cli.output import table
from kbe_nat.counting import counted
from kbe_nat.drivers.queue import NEW, VERDICT, Batch
from kbe_nat.policy.plan import Plan
from kbe_nat.port_rows import OptionalPortRow, optional_port_fields


class FlowDifferenceRow(OptionalPortRow, frozen=True):
    """A connection that fares differently under other objects."""

    change: str
    """moved to another backend, refused, served, or passed; always seen from before to
    after.
    """
    protocol: str
    """tcp, udp or sctp."""
    client: str
    """Address and port."""
    frontend: str
    """Address and port."""
    before: str
    """The backend, or the refusal, under the objects of -f."""
    after: str
    """The same under the objects of --compare."""


class ComparisonRow(msgspec.Struct, frozen=True):
    """`replay --compare`: the connections that fare differently under other objects."""

    flows: int
    """Connections that were compared."""
    changed: int
    """Connections that fare differently."""
    services: dict[str, dict[str, int]]
    """By service port, or the empty text where none has the frontend: the number of each change."""
    differences: list[FlowDifferenceRow]
    """Each of them."""


@dataclass(frozen=True, slots=True)
class _Fate:
    """The fate of a packet: the backend that it was sent to, a refusal, or neither."""

    kind: str
    text: str


@dataclass(slots=True)
class Comparison(OriginalPackets):
    """A `PacketQueue` around another one: a second engine gets a copy of every batch, and the
    verdicts are compared.

    Only packets that open a flow or are refused, under either engine, are looked at one by one.
    """

    other: Engine
    plans: tuple[Plan, Plan]
    seen: set[wire.Ends] = field(default_factory=set)
    """Flows that were opened, or refused, under either engine."""
    differences: dict[wire.Ends, FlowDifferenceRow] = field(default_factory=dict)

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        packets = bytearray(self.original)
        others = self.other.process_batch(
            packets,
            batch.now,
            offsets=batch.offsets,
            interface=batch.interface,
            captured=batch.is_captured,
        )
        self.other.released()
        self.other.expire(batch.now, EXPIRY_BUDGET)
        size = VERDICT.size
        columns = (verdicts[0::size], verdicts[2::size], others[0::size], others[2::size])
        for number, (action, flags, other_action, other_flags) in enumerate(
            zip(*columns, strict=True)
        ):
            if (flags | other_flags) & NEW or action in REFUSING or other_action in REFUSING:
                self._compare(number, batch, packets, verdicts, others)
        self.queue.set_verdicts(batch, verdicts, released)

    def summary(self) -> ComparisonRow:
        """All differences, for JSON."""
        return ComparisonRow(
            flows=len(self.seen),
            changed=len(self.differences),
            services=self._counts(),
            differences=list(self.differences.values()),
        )

    def tables(self) -> list[Any]:
        """All differences, for people."""
        changed, flows = len(self.differences), len(self.seen)
        if not changed:
            return [f"None of {counted(flows, 'flow')} would fare differently."]
        counts = table("Flows that would fare differently", "service", *CHANGES, right=len(CHANGES))
        for service, numbers in self._counts().items():
            figures = [str(numbers.get(change, 0)) for change in CHANGES]
            counts.add_row(service or "<none>", *figures)
        title = f"The first {LISTED} of them" if changed > LISTED else "Which ones"
        listed = table(
            title,
            "service",
            "protocol",
            "client",
            "frontend",
            "before",
            "after",
            spare=("protocol", "service", "frontend"),
            is_wrapped=True,
        )
        for row in list(self.differences.values())[:LISTED]:
            listed.add_row(
                row.service or "<none>",
                row.protocol,
                row.client,
                row.frontend,
                # A refusal and its cause are one word, as in lists of decisions.
                row.before.replace(": ", ":"),
                row.after.replace(": ", ":"),
            )
        return [
            f"{changed} of {counted(flows, 'flow')} would fare differently.",
            "",
            counts,
            "",
            listed,
        ]

    def _counts(self) -> dict[str, dict[str, int]]:
        counts = Counter((row.service or "", row.change) for row in self.differences.values())
        services: dict[str, dict[str, int]] = {}
        for (service, change), number in sorted(counts.items()):
            services.setdefault(service, {})[change] = number
        return services

    def _compare(
        self, number: int, batch: Batch, packets: bytearray, verdicts: bytes, others: bytes
    ) -> None:
        start, end = batch.offsets[number : number + 2]
        ends = wire.ends(self.original[start:end])
        before = _fate(verdicts, number, batch.packets[start:end])
        after = _fate(others, number, packets[start:end])
        if ends is None or before is None or after is None:
            return
        self.seen.add(ends)
        if before == after or (before.kind == after.kind != "served"):
            return
        change = "moved" if before.kind == after.kind else after.kind
        client, frontend = wire.show(ends.source), wire.show(ends.destination)
        service = next(filter(None, (_owner(plan, ends) for plan in self.plans)), "")
        # A client that was refused tries again: its first attempt stands for all.
        self.differences.setdefault(
            ends,
            FlowDifferenceRow(
                **optional_port_fields(service),
                change=change,
                protocol=ends.protocol,
                client=client,
                frontend=frontend,
                before=before.text,
                after=after.text,
            ),
        )


def _fate(verdicts: bytes, number: int, translated: bytearray) -> _Fate | None:
    action, cause, _, _ = VERDICT.unpack_from(verdicts, number * VERDICT.size)
    name = ACTIONS[action]
    if name == "translate":
        ends = wire.ends(bytes(translated))
        return _Fate("served", wire.show(ends.destination)) if ends else None
    if name in ("drop", "reject"):
        return _Fate("refused", f"{name}: {CAUSES[cause]}")
    return _Fate("passed", name) if name == "pass" else None


def _owner(plan: Plan, ends: wire.Ends) -> str | None:
    """The service port that is served at a packet's destination."""
    address, port = ends.destination
    for planned in plan.ports:
        if planned.protocol != ends.protocol:
            continue
        for frontend in planned.frontends:
            is_there = frontend.address == address
            is_node_port = not frontend.address and address in plan.node_ports.addresses
            if frontend.port == port and (is_there or is_node_port):
                return planned.name
    return None


REFUSING: Final = frozenset(
    number for number, name in enumerate(ACTIONS) if name in ("drop", "reject")
)
CHANGES: Final = ("moved", "refused", "served", "passed")
LISTED: Final = 20
