"""Service NAT in plain Python: the page to learn from, and the oracle that the engine is tested
against.

Read it from `Reference.process` on. A packet takes these steps:

1. `parse` (`kbe_nat.reference.packet`) reads its headers and checks their lengths.
2. `_verdict_of_flow` looks its two ends up. A flow stands in the table twice, by the ends of its
   first packet (`original`) and by those of the answers (`reply`). One that is over, or whose
   backend the tables have taken away, ends here, and the packet is a first one again.
3. `_track` moves the flow's state on, as nf_conntrack does (`kbe_nat.reference.tcp` for TCP,
   `kbe_nat.reference.states` for SCTP), and with it the deadline.
4. Without a flow, `decide` (`kbe_nat.reference.tables`) says which endpoints may serve; `_choose`
   picks one, and `_open` enters a flow with free ports on both sides.
5. `rewritten` changes the ends and corrects the checksums by the difference.

Invariants: both entries of a flow come and go together; a flow that is refused changes nothing;
tables are replaced whole, and a flow learns of new ones at its next packet, by their generation.

It does what the engine does, byte for byte, with three exceptions: fragments and checkpoints are
not in it, `rr` is its only strategy (a choice that all nodes agree on is made by another hash), and
a clash of ports is resolved with the lowest free port instead of a random one.

Times are nanoseconds of a monotonic clock; packets begin at the IP header.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, TypeAlias

from kbe_nat.reference.flow import Flow, Verdict
from kbe_nat.reference.packet import (
    SCTP,
    TCP,
    Address,
    Ends,
    Malformed,
    Packet,
    parse,
    parse_quote,
    rewritten,
    rewritten_error,
)
from kbe_nat.reference.states import TIMEOUTS, UNANSWERED, after_chunk, opening
from kbe_nat.reference.tables import (
    Backend,
    Decision,
    Endpoint,
    Frontend,
    Node,
    NodePorts,
    Refused,
    Served,
    ServicePort,
    Standing,
    Tables,
    decide,
    is_masqueraded,
    is_own_address,
    standing_beside,
)
from kbe_nat.reference.tcp import Segment

__all__ = [
    "Backend",
    "Flow",
    "Frontend",
    "Node",
    "NodePorts",
    "Reference",
    "ServicePort",
    "Verdict",
]

Client: TypeAlias = tuple[str, Address]


class Reference:
    """The engine's twin."""

    def __init__(
        self,
        *,
        max_flows: int = 262_144,
        max_unassured: int | None = None,
        max_flows_per_source: int | None = None,
        timeouts: Mapping[str, float] | None = None,
        snat_addresses: Sequence[str] = (),
        snat_ports: tuple[int, int] = (1024, 65535),
        snat_reserved: tuple[int, int] = (30000, 32767),
        midstream: str = "consistent",
        invalid: str = "translate",
    ) -> None:
        self._max_flows = max_flows
        self._max_unassured = max_flows if max_unassured is None else max_unassured
        self._max_flows_per_source = max_flows_per_source
        self._timeouts = {
            name: _ticks(seconds) for name, seconds in {**TIMEOUTS, **(timeouts or {})}.items()
        }
        self._snat = [ip_address(text) for text in snat_addresses]
        self._ports = [
            port
            for port in range(snat_ports[0], snat_ports[1] + 1)
            if not snat_reserved[0] <= port <= snat_reserved[1]
        ]
        self._midstream = midstream
        self._invalid = invalid
        self._tables = Tables((), Node())
        self._generation = 0
        self._origin: int | None = None
        self._now = 0
        self._services: dict[str, Served] = {}
        self._flows: dict[tuple[int, Ends], tuple[Flow, str]] = {}
        """By protocol and ends, in both directions."""
        self._sources: dict[Address, int] = {}
        self._sticky: dict[Client, tuple[Endpoint, int, int]] = {}
        """Endpoint, its birth, and until when."""

    # Tables

    def replace_services(self, services: Sequence[ServicePort], node: Node | None = None) -> None:
        """Serve these and no others. Flows stay; their backends are looked at again with their next
        packet.
        """
        self._tables = Tables(services, node or self._tables.node)
        self._generation += 1
        for name in self._services.keys() - {spec.name for spec in services}:
            self._retire(self._services[name])
        for spec in services:
            served = self._services.setdefault(spec.name, Served(spec))
            served.spec, served.is_served = spec, True
            both = (*spec.cluster_backends, *spec.local_backends)
            listed = {(ip_address(backend.address), backend.port): backend for backend in both}
            for place in served.endpoints.keys() - listed.keys():
                served.endpoints[place].standing = standing_beside(spec, place)
            for place, backend in listed.items():
                endpoint = served.endpoints.setdefault(place, Endpoint(*place))
                endpoint.birth += endpoint.standing != Standing.LISTED
                endpoint.standing, endpoint.hairpin = Standing.LISTED, backend.hairpin

    def _retire(self, served: Served) -> None:
        served.is_served = False
        for endpoint in served.endpoints.values():
            endpoint.standing = Standing.GONE
        if served.flows == 0:
            del self._services[served.spec.name]

    # Packets

    def process(
        self, packet: bytes, now: int, *, interface: int = 0, incomplete_checksum: bool = False
    ) -> Verdict:
        """The verdict on a packet that came in at `now`."""
        self._advance_clock(now)
        try:
            parsed = parse(packet)
        except Malformed as error:
            return Verdict("drop", error.cause)
        try:
            if parsed.kind == "icmp-error":
                return self._icmp_error(parsed)
            if parsed.kind == "icmp-other":
                return Verdict("pass", "not-ours", packet)
            verdict = self._verdict_of_flow(parsed, incomplete_checksum)
            return verdict or self._first(parsed, interface, incomplete_checksum)
        except Refused as refused:
            return Verdict(refused.action, refused.cause)

    def expire(self, now: int) -> int:
        """Forget every flow that timed out, and unanswered TCP whose backend left; returns how
        many.
        """
        self._advance_clock(now)
        over = [flow for flow in self.flows() if self._is_over(flow)]
        for flow in over:
            self._end(flow)
        return len(over)

    def flows(self) -> Iterator[Flow]:
        """All flows, oldest first."""
        return iter([flow for flow, direction in self._flows.values() if direction == "original"])

    def _advance_clock(self, now: int) -> None:
        """Time goes in ticks of 2^26 ns. A clock that jumps back stands still."""
        self._origin = now if self._origin is None else self._origin
        self._now = max(self._now, (now - self._origin) >> TICK)

    def _is_over(self, flow: Flow) -> bool:
        is_unlisted = flow.backend.standing != Standing.LISTED
        is_stale = flow.generation != self._generation and flow.state in UNANSWERED and is_unlisted
        return self._now > flow.deadline or is_stale

    # Packets of flows

    def _verdict_of_flow(self, packet: Packet, is_incomplete: bool) -> Verdict | None:
        """The verdict on a packet of a flow; None when it has none, or one that is over."""
        flow, direction = self._flows.get((packet.protocol, packet.ends), (None, ""))
        if flow is None or not self._is_kept(flow, direction):
            return None
        if direction == "reply":
            flow.is_replied = True
        cause = self._track(flow, direction, packet)
        if cause is None:
            self._end(flow)
            return None
        side = 0 if direction == "original" else 1
        flow.packets[side] += 1
        flow.octets[side] += packet.end
        masquerade = flow.is_marked and direction == "original"
        if cause == "invalid" and self._invalid == "drop":
            return Verdict("drop", cause, None, masquerade, direction)
        return Verdict(
            "translate",
            cause,
            self._sent(flow, direction, packet, is_incomplete),
            masquerade,
            direction,
        )

    def _is_kept(self, flow: Flow, direction: str) -> bool:
        """Whether a flow goes on, now that the tables may have changed. Raises when the packet is
        over, too.
        """
        if self._now > flow.deadline:
            self._end(flow)
            return False
        if flow.generation == self._generation:
            return True
        self._rehome(flow)
        is_connection = flow.protocol in (TCP, SCTP)
        is_answered = flow.state not in UNANSWERED if flow.protocol == TCP else flow.is_replied
        # A connection that was answered stays with its backend; deleting it would break graceful
        # termination.
        if flow.backend.standing == Standing.LISTED or (
            is_answered if is_connection else flow.backend.standing == Standing.SERVING
        ):
            flow.generation = self._generation
            return True
        if direction == "reply" and not is_connection:
            return True
        self._end(flow)
        if direction == "reply":
            raise Refused("drop", "backend-gone")
        return False

    def _rehome(self, flow: Flow) -> None:
        """Enters a flow with the service port that is reached where it began, which may have
        another name now, or be another one.
        """
        entry = self._tables.find(flow.protocol, flow.original.dst, flow.original.dport)
        served = self._services[entry[0].name] if entry else flow.service
        if served is not flow.service:
            place = flow.backend.address, flow.backend.port
            endpoint = served.endpoints.setdefault(
                place, Endpoint(*place, standing_beside(served.spec, place))
            )
            self._leave(flow)
            served.flows += 1
            flow.service, flow.backend = served, endpoint

    def _track(self, flow: Flow, direction: str, packet: Packet) -> str | None:
        """State and deadline after one more packet; None when it opens a new connection in the
        flow's place.
        """
        if flow.protocol == TCP:
            segment = Segment.parse(packet.transport)
            outcome = flow.connection.advance(flow.state, direction == "original", segment)
            if outcome in ("invalid", "unmoved"):
                return "invalid" if outcome == "invalid" else "established"
            if outcome == "reopened":
                return None
            flow.state = outcome
            flow.deadline = self._now + flow.connection.timeout(
                outcome, self._timeouts, is_replied=flow.is_replied
            )
            if outcome == "tcp_established" and flow.is_replied:
                flow.is_assured = True
            return "established"
        if flow.state == "udp" and flow.is_replied and self._now - flow.created >= _ticks(2):
            flow.state = "udp_stream"
        elif packet.kind == "sctp":
            flow.state = after_chunk(flow.state, packet.transport[12:13], direction)
        flow.deadline = self._now + self._timeouts[flow.state]
        if flow.state in ("sctp_established", "generic"):
            flow.is_assured = flow.is_assured or flow.is_replied
        elif flow.state not in ("udp", "icmp", "icmpv6"):
            flow.is_assured = flow.is_assured or flow.state == "udp_stream"
        return "established"

    def _sent(self, flow: Flow, direction: str, packet: Packet, is_incomplete: bool) -> bytes:
        ends = flow.reply if direction == "original" else flow.original
        return rewritten(packet, ends.swap(), is_incomplete)

    def _icmp_error(self, packet: Packet) -> Verdict:
        """An error about a translated packet goes to the sender of that, and quotes the packet as
        it was sent (RFC 5508).
        """
        if not packet.has_right_icmp_checksum():
            return Verdict("drop", "bad-icmp")
        # The node, and hosts with external addresses, have connections of their own.
        is_cluster_ip = self._tables.addresses.get(packet.ends.dst, False)
        ours = is_cluster_ip and not is_own_address(self._tables.node, packet.ends.dst)
        unmatched = (
            Verdict("drop", "icmp-unmatched")
            if ours
            else Verdict("pass", "not-ours", packet.content)
        )
        quote = parse_quote(packet)
        if quote is None:
            return unmatched
        if quote.kind == "icmp-error":
            return Verdict("drop", "bad-icmp")
        flow, direction = self._flows.get((quote.protocol, quote.ends.swap()), (None, ""))
        if flow is None or self._now > flow.deadline:
            return unmatched
        if packet.ends.dst != quote.ends.src:
            return Verdict("drop", "bad-icmp")
        sent = flow.reply if direction == "original" else flow.original
        return Verdict(
            "translate", "related", rewritten_error(packet, quote, sent), False, direction
        )

    # First packets

    def _first(self, packet: Packet, interface: int, is_incomplete: bool) -> Verdict:
        """A packet without a flow opens one, is refused, or belongs to no Service."""
        decision = decide(self._tables, packet, interface, self._midstream)
        if decision is None:
            return Verdict("pass", "not-ours", packet.content)
        served = self._services[decision.spec.name]
        backend = self._choose(served, decision, packet.ends)
        is_hairpin = backend.hairpin and backend.address == packet.ends.src
        is_marked = decision.masquerade or is_hairpin
        place = backend.address, backend.port
        masquerade = is_masqueraded(self._tables, packet, interface, place, is_marked=is_marked)
        flow = self._open(served, backend, packet, masquerade)
        sent = self._sent(flow, "original", packet, is_incomplete)
        return Verdict("translate", "new", sent, flow.is_marked, "original", is_new=True)

    def _choose(self, served: Served, decision: Decision, ends: Ends) -> Endpoint:
        """The client's backend from before, else the strategy's."""
        spec, scope, client = served.spec, decision.scope, (served.spec.name, ends.src)
        listed = decision.backends
        weights = {
            (ip_address(backend.address), backend.port): backend.weight for backend in listed
        }
        if spec.affinity_seconds is not None:
            endpoint, birth, deadline = self._sticky.get(client, (None, 0, 0))
            if (
                endpoint
                and self._now <= deadline
                and weights.get((endpoint.address, endpoint.port))
            ):
                is_same = served.endpoints.get((endpoint.address, endpoint.port)) is endpoint
                if is_same and birth == endpoint.birth:
                    self._sticky[client] = (
                        endpoint,
                        birth,
                        self._now + _ticks(spec.affinity_seconds),
                    )
                    return endpoint
        backends = [backend for backend in listed if backend.weight]
        if not backends:
            raise Refused("reject", "no-endpoints")
        if decision.is_midstream:
            chosen = min(
                backends,
                key=lambda backend: hashlib.sha256(f"{ends} {backend}".encode()).digest(),
            )
        else:
            chosen = backends[served.cursors[scope] % len(backends)]
            served.cursors[scope] += 1
        endpoint = served.endpoints[ip_address(chosen.address), chosen.port]
        if spec.affinity_seconds is not None:
            deadline = self._now + _ticks(spec.affinity_seconds)
            self._sticky[client] = endpoint, endpoint.birth, deadline
        return endpoint

    def _open(self, served: Served, backend: Endpoint, packet: Packet, masquerade: bool) -> Flow:
        """The flow that this packet opens. Raises when there is no room or no port for it."""
        victim = self._room(packet.ends.src)
        ends = packet.ends
        port = ends.dport if packet.kind in ("portless", "echo-request") else backend.port
        sent = replace(ends, dst=backend.address, dport=port)
        leased = [address for address in self._snat if address.version == ends.src.version]
        if masquerade and leased:
            sent = replace(sent, src=leased[0])
        sent = self._with_free_port(packet, sent, is_leased=masquerade and bool(leased))
        if victim:
            # The victim ends last, so that a flow that is refused costs no other its place.
            self._end(victim)
        state, connection = opening(packet)
        is_tcp = packet.protocol == TCP
        timeout = (
            connection.timeout(state, self._timeouts, is_replied=False)
            if is_tcp
            else self._timeouts[state]
        )
        flow = Flow(
            packet.protocol,
            ends,
            sent.swap(),
            state,
            self._now + timeout,
            self._now,
            served,
            backend,
            self._generation,
            masquerade and not leased,
            connection,
            packets=[1, 0],
            octets=[packet.end, 0],
        )
        self._flows[packet.protocol, flow.original] = flow, "original"
        self._flows[packet.protocol, flow.reply] = flow, "reply"
        self._sources[ends.src] = self._sources.get(ends.src, 0) + 1
        served.flows += 1
        return flow

    def _room(self, src: Address) -> Flow | None:
        """The flow that gives way to one more, if need be: the oldest that was never answered,
        never an established one. Raises when there is no room.
        """
        limit = self._max_flows_per_source
        if limit is not None and self._sources.get(src, 0) >= limit:
            raise Refused("drop", "source-limit")
        if len(self._flows) // 2 < min(self._max_flows, self._max_unassured):
            return None
        # The limits are those of one family.
        flows = [flow for flow in self.flows() if flow.original.src.version == src.version]
        unassured = [flow for flow in flows if not flow.is_assured]
        if len(flows) < self._max_flows and len(unassured) < self._max_unassured:
            return None
        if not unassured:
            raise Refused("drop", "table-full")
        return unassured[0]

    def _with_free_port(self, packet: Packet, sent: Ends, *, is_leased: bool) -> Ends:
        """The ends with a source port by which the backend's answers can be told from those to
        other flows.
        """

        def is_free(port: int) -> bool:
            return (packet.protocol, replace(sent, sport=port).swap()) not in self._flows

        if is_free(sent.sport) and (
            not is_leased or packet.kind == "portless" or sent.sport in self._ports
        ):
            return sent
        if packet.kind != "portless":
            for port in self._ports:
                if is_free(port):
                    return replace(sent, sport=port)
        raise Refused("drop", "ports-exhausted")

    def _end(self, flow: Flow) -> None:
        del self._flows[flow.protocol, flow.original], self._flows[flow.protocol, flow.reply]
        src = flow.original.src
        self._sources[src] -= 1
        if not self._sources[src]:
            del self._sources[src]
        self._leave(flow)

    def _leave(self, flow: Flow) -> None:
        flow.service.flows -= 1
        if not flow.service.flows and not flow.service.is_served:
            del self._services[flow.service.spec.name]


def _ticks(seconds: float) -> int:
    """A span in ticks, rounded up: deadlines are late by up to one, and never early."""
    return -int(-seconds * 1e9 // (1 << TICK))


TICK: Final = 26
