"""The datapath `first-packet` with a cache of established flows in front of it.

Theory of operation. `FirstPacket` does everything that it does by itself, and the kernel's
conntrack knows every flow. Beside it, programs on the node's Ethernet devices send packets of
established flows out as soon as they come in, translated, past the kernel's stack. `CacheSync`
decides which flows those are (`rust/datapath/src/cache_sync.rs`); this file tells it which Services
are excluded, and puts its counters beside the others.

Nothing of the cache outlives the process: its programs leave the devices with the last descriptor,
and from then on conntrack carries the flows, as with `first-packet`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from kbe_nat import packets
from kbe_nat._native import BackendIdMap, CacheSync, ConntrackEntry, Engine, Flow, FlowCache
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.thread import NativeThread, Persistent
from kbe_nat.policy.delta import PlanDelta, port_facts
from kbe_nat.policy.plan import FrontendKey, Plan
from kbe_nat.rules.rule import DatapathKind


@dataclass(frozen=True)
class CacheSettings:
    """Which flows are cached."""

    max_flows: int = 32_768
    """At most; about 1.2 kB of the kernel's memory each."""
    excluded_ranges: tuple[str, ...] = ()
    """Flows with an address in one of these go the kernel's whole way."""
    excluded_devices: tuple[str, ...] = ()
    """Names of devices whose packets do."""


class Cached:
    """A `Datapath` whose established flows pass the kernel's stack by."""

    kind = DatapathKind.CACHED

    def __init__(
        self, first_packet: FirstPacket, cache: FlowCache, settings: CacheSettings
    ) -> None:
        """`cache` has room for two directions of `settings.max_flows` flows."""
        self._first_packet = first_packet
        # A flow is proposed when the kernel tells that both sides have confirmed it.
        first_packet.tells_updates = True
        self._cache = cache
        self._settings = settings
        self._sync: CacheSync | None = None
        self._excluded: set[FrontendKey] = set()
        """The frontends whose flows are not cached."""
        self._is_told = False
        """`CacheSync` knows these."""

    @property
    def backend_ids(self) -> BackendIdMap:
        """See `Datapath`."""
        return self._first_packet.backend_ids

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._first_packet.apply(delta)
        before = set(self._excluded)
        pairs = list(delta.pairs())
        for old, _ in pairs:
            if old is not None:
                self._excluded -= old.frontend_keys
        for _, new in pairs:
            if new is not None and not new.port.is_cached:
                self._excluded |= new.frontend_keys
        self._is_told = self._is_told and self._excluded == before

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        self._first_packet.rebuild(plan)
        facts = (port_facts(port, plan.node_ports) for port in plan.ports if not port.is_cached)
        self._excluded = {key for each in facts for key in each.frontend_keys}
        self._is_told = False

    def prepare(self) -> None:
        """See `Datapath`."""
        self._first_packet.prepare()

    def install(self) -> None:
        """See `Datapath`."""
        self._tell()
        self._first_packet.install()

    def update(self) -> None:
        """See `Datapath`."""
        self._tell()
        self._first_packet.update()

    def repair(self) -> tuple[str, ...]:
        """See `Datapath`."""
        return self._first_packet.repair()

    def remove(self) -> None:
        """See `Datapath`."""
        self._first_packet.remove()

    def is_present(self) -> bool:
        """See `Datapath`."""
        return self._first_packet.is_present()

    def render(self) -> str:
        """See `Datapath`. Programs on devices are no rules."""
        return self._first_packet.render()

    def refresh(self) -> None:
        """See `Datapath`."""
        self._first_packet.refresh()

    def uncached_devices(self) -> dict[str, str]:
        """See `Datapath`."""
        return dict(self._sync.left_out) if self._sync is not None else {}

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """See `Datapath`."""
        return self._first_packet.set_conntrack(settings)

    def render_conntrack(self, settings: ConntrackSettings) -> str:
        """See `Datapath`."""
        return self._first_packet.render_conntrack(settings)

    def counts_bytes(self) -> bool:
        """See `Datapath`."""
        return self._first_packet.counts_bytes()

    def counters(self) -> dict[str, int]:
        """See `Datapath`."""
        counters = self._first_packet.counters()
        if self._sync is not None:
            counters |= {f"{CACHE}{name}": count for name, count in self._sync.counters().items()}
        return counters

    def entries(
        self, flows: Sequence[Flow], *, ended: bool = False
    ) -> Sequence[ConntrackEntry | None]:
        """See `Datapath`: what the cache has carried is not among their counters."""
        return self._first_packet.entries(flows, ended=ended)

    def watch_flows(self, is_watched: bool) -> None:
        """See `Datapath`."""
        self._first_packet.watch_flows(is_watched)

    def flow_notes(self, packet: bytes) -> list[tuple[str, str]]:
        """See `Datapath`: whether the flow is cached."""
        note = self._cache_note(packet)
        return [("cache", note)] if note else []

    def is_chosen_by_kernel(self, packet: bytes) -> bool:
        """See `Datapath`."""
        return self._first_packet.is_chosen_by_kernel(packet)

    @contextmanager
    def following(self, engine: Engine) -> Iterator[Sequence[NativeThread]]:
        """See `Datapath`. The cache works for as long as the block runs."""
        settings = self._settings
        self._sync = CacheSync(
            engine,
            self._cache,
            max_flows=settings.max_flows,
            excluded_ranges=list(settings.excluded_ranges),
            excluded_devices=list(settings.excluded_devices),
            socket_buffer=UPDATE_BYTES,
        )
        self._is_told = False
        self._tell()
        try:
            with (
                self._first_packet.following(engine, self._sync) as threads,
                NativeThread(Persistent(self._sync), "cache sync") as thread,
            ):
                yield *threads, thread
        finally:
            self._sync = None

    def _cache_note(self, packet: bytes) -> str:
        """Whether the flow of a packet is cached, or why not; empty: it is of no frontend."""
        ends = packets.ends(packet)
        if self._sync is None or ends is None:
            return ""
        if ends.protocol not in ("tcp", "udp"):
            return STANDINGS["protocol"]
        standing, there, back, left_out = self._sync.standing(
            ends.protocol, ends.source, ends.destination
        )
        if standing != "proposed":
            return STANDINGS[standing]
        if there and back:
            return "cached: packets of the flow pass the kernel's stack by"
        # Of a flow without an entry nothing says which devices are its own.
        devices = [left_out] if left_out else self._sync.left_out
        reasons = "".join(f"; not on {name}: {reason}" for name, reason in devices)
        if there or back:
            direction = "the client's" if there else "the backend's"
            return f"cached one way: {direction} packets pass the kernel's stack by" + reasons
        if left_out:
            return "no: the cache does not stand on a device of the flow" + reasons
        return STANDINGS[standing] + reasons

    def _tell(self) -> None:
        """Say which Services are excluded, before their rules are in force."""
        if self._sync is not None and not self._is_told:
            self._sync.exclude_frontends(
                [(protocol, address, port) for address, protocol, port in self._excluded]
            )
            self._is_told = True


CACHE: Final = "cache-"
"""The beginning of the names of the cache's counters."""
UPDATE_BYTES: Final = 8 << 20
"""Of events about established flows that wait for us."""
STANDINGS: Final = {
    "proposed": "not yet: it is proposed, and the next packets that leave enter it",
    "waiting": "not yet: a connection is proposed once it is established for a second",
    "over": "not any more: the connection is ending",
    "aside": "not any more: other flows had more need of the room, see --cache-flows",
    "special": "no: conntrack has to see each packet, for a helper (FTP) or SYNPROXY",
    "unknown": "no: conntrack has no flow of these ends that both sides have confirmed",
    "protocol": "no: only TCP and UDP are cached",
    "service": 'no: the Service has the annotation kbe-nat.io/cache: "off"',
    "range": "no: --cache-exclude names one of its addresses",
    "local": "no: the node itself is its client or its server, so it does not pass through",
}
"""Why a flow is not cached."""
