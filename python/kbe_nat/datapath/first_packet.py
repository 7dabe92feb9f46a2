"""The datapath whose engine decides about the first packet of a flow; the kernel translates all of
its packets.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import collapse_addresses, ip_network
from typing import Final

from kbe_nat import packets
from kbe_nat._native import (
    AnswerWatch,
    BackendIdMap,
    CacheSync,
    ConntrackEntry,
    ConntrackSync,
    Engine,
    Flow,
    NftTables,
)
from kbe_nat.datapath.conntrack_settings import LIBERAL, ConntrackSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.flow_checks import FlowChecks
from kbe_nat.datapath.sysctl import ACCOUNTING, sysctl
from kbe_nat.drivers.thread import NativeThread, Persistent
from kbe_nat.errors import RulesError
from kbe_nat.family import Family, family_of
from kbe_nat.model import Choice
from kbe_nat.policy.delta import PlanDelta, PortFacts
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import BackendAddress, Plan, PlannedPort
from kbe_nat.rules.backend_ids import BackendIds, IdsByPort
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.frontends import ElementChange, ServiceAddresses
from kbe_nat.rules.hairpins import Hairpins
from kbe_nat.rules.nat_program import NatProgram, NatTableChange
from kbe_nat.rules.nat_table import KernelChoice, NatTable
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.rules.slots import SlotClasses
from kbe_nat.rules.standby import OnDeath, StandbyTable


class FirstPacket:
    """A `Datapath` whose flows the kernel carries."""

    kind = DatapathKind.FIRST_PACKET

    def __init__(
        self,
        diversion: Diversion,
        runner: Runner,
        tables: NftTables,
        on_death: OnDeath = OnDeath.SERVE,
        leftovers: Callable[[], None] | None = None,
        slot_classes: SlotClasses | None = None,
        choice: Choice = Choice.ENGINE,
        hash_seed: int | None = None,
        drops_invalid: bool | None = None,
    ) -> None:
        """`runner` runs nft in the network namespace of `tables`; `on_death` says what new
        connections meet when we are gone; `leftovers` takes away what a run of the other datapath
        has left; `slot_classes` are those of standbys, None: the defaults; `choice` is that of
        Services that do not say theirs; `hash_seed` is that of the kernel's hashes of clients,
        None: any; `drops_invalid` says whether packets that belong to no connection are forwarded
        no more, None: as by kube-proxy.
        """
        self.backend_ids = BackendIdMap(diversion.marks.backend)
        self.tells_updates = False
        """Whether the kernel tells of changes of flows for which it chooses, watched or not: by the
        next table.
        """
        self._diversion = diversion
        self._leftovers = leftovers
        self._drops_invalid = drops_invalid
        seed = secrets.randbits(32) if hash_seed is None else hash_seed
        self._program = NatProgram(runner, tables, diversion.marks, diversion.queues, seed)
        self._plan = Plan()
        self._standby = StandbyTable(on_death, slot_classes, choice)
        self._hairpins = Hairpins(choice)
        self._addresses = ServiceAddresses()
        self._flow_checks = FlowChecks()
        mask = diversion.marks.backend
        largest = mask // (mask & -mask)
        self._ids = {family: BackendIds(largest, time.monotonic) for family in Family}
        self._assigned = {family: IdsByPort() for family in Family}
        """Ids that neither the kernel nor the queues know yet."""
        self._leaving: dict[Family, list[BackendAddress]] = {family: [] for family in Family}
        """Backends that ports of the newest plan use no more, as often as they did. They are
        released once the engine decides by that plan.
        """
        self._sync: ConntrackSync | None = None
        self._answers: AnswerWatch | None = None
        self._are_flows_watched = False
        self._is_installed = False
        self._is_whole = False
        """The kernel has taken every change."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._plan = delta.plan
        for before, after in delta.pairs():
            if before is None or after is None or not _share_backends(before.port, after.port):
                former, present = _backend_keys(before), _backend_keys(after)
                self._use(after, present - former)
                self._leave(before, former - present)
        self._standby.apply(delta)
        self._hairpins.apply(delta)
        self._addresses.apply(delta)
        self._flow_checks.apply(delta)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`. Backends keep their ids."""
        self._plan = plan
        for family, ids in self._ids.items():
            self._leaving[family] = ids.uses()
        for port in plan.ports:
            acquired = self._ids[port.family].acquire(port.backend_keys)
            self._assigned[port.family].update(acquired)
        self._standby.rebuild(plan)
        self._hairpins.rebuild(plan)
        self._addresses.rebuild(plan)
        self._flow_checks.rebuild(plan)

    def prepare(self) -> None:
        """See `Datapath`. New backends are known to the kernel before the engine chooses one of
        them. A backend for which no id is free yet gets the standby's connections until `repair`
        finds one.
        """
        for family, ids in self._ids.items():
            self._assigned[family].update(ids.assign())
        if any(self._assigned.values()):
            self._introduce()

    def inherit(self) -> None:
        """Let clients whose address is hashed stay where an earlier daemon's tables lead them."""
        # A dry run may not look.
        with suppress(RulesError):
            by_source = [each for each in self._standby.classes.all if each.is_by_source]
            hashed = self._standby.classes.hashed
            slots = self._program.inherit([*by_source, *([hashed] if hashed else [])])
            self._standby.inherit(slots)

    def install(self) -> None:
        """See `Datapath`."""
        self._is_installed = False
        self.prepare()
        for ids in self._ids.values():
            if ids.shortage:
                raise RulesError(ids.shortage)
        self._is_whole = False
        self._change_tables([])
        self._is_installed = True
        self._standby.inherit({})
        self._resync()
        if self._leftovers:
            self._leftovers()

    def update(self) -> None:
        """See `Datapath`."""
        changes = []
        for family in Family:
            backends, self._leaving[family] = self._leaving[family], []
            released = self._ids[family].release(backends)
            self.backend_ids.update((), list(released))
            if family in self._plan.families:
                standby = self._standby.take_change(family)
                addresses = self._addresses.take_change(family)
                # Without a choice of the kernel's the table has no set for them.
                may_choose = self._standby.may_choose
                hairpins = self._hairpins.take_change(family) if may_choose else ElementChange()
                changes.append(
                    NatTableChange(
                        family,
                        removed=released,
                        standby=standby,
                        choice_classes=frozenset(self._standby.chosen_classes),
                        addresses=addresses,
                        hairpins=hairpins,
                    )
                )
        self._change_tables(changes)
        frontends = self._flow_checks.take()
        if self._sync and frontends is None:
            self._sync.resync()
        elif self._sync and frontends:
            self._sync.resync_frontends(
                [(protocol, address, port) for address, protocol, port in frontends]
            )

    def repair(self) -> tuple[str, ...]:
        """See `Datapath`."""
        missing = self._program.missing()
        if missing:
            self._is_whole = False
            self._change_tables([])
            self._resync()
            return missing
        self.prepare()
        for ids in self._ids.values():
            if ids.shortage:
                raise RulesError(f"{ids.shortage}; new connections to them get the standby")
        return ()

    def remove(self) -> None:
        """See `Datapath`. Flows that the kernel carries go on."""
        self._is_installed = False
        self._program.remove()

    def is_present(self) -> bool:
        """See `Datapath`."""
        return self._program.is_present()

    def render(self) -> str:
        """See `Datapath`."""
        return self._program.render(self._tables())

    def refresh(self) -> None:
        """See `Datapath`: asks the kernel."""
        if self._sync:
            self._sync.resync_within(REFRESH_SECONDS)

    def counters(self) -> dict[str, int]:
        """See `Datapath`."""
        sync, answers = self._sync, self._answers
        insert_failed, dropped = sync.statistics() if sync else (0, 0)
        return {
            # Of all flows of the kernel, those of others too.
            "events": sync.changes if sync else 0,
            # The same about flows that go on, by which connect times are measured.
            "updates": answers.updates if answers else 0,
            # Seconds of which a part was not listened to: there was too much of them.
            "updates-paused": answers.pauses if answers else 0,
            # A full resync followed, one for several where there were many.
            "events-lost": sync.overruns if sync else 0,
            # Passes over all flows of the kernel.
            "resyncs": sync.resyncs if sync else 0,
            # Losses of events whose resync had to wait, because losses are too many.
            "resyncs-delayed": sync.delayed_resyncs if sync else 0,
            # They did not go where their frontends led, or somebody asked for it.
            "flows-ended": sync.ended if sync else 0,
            # Taken out of the kernel's table by others, while both ends were talking.
            "flows-forgotten": sync.forgotten if sync else 0,
            # By the kernel, of all flows: above all, no port was left to masquerade with. Their
            # packets are lost.
            "flows-not-entered": insert_failed,
            # By the kernel's connection tracking, of all flows: its table was full.
            "tracking-dropped": dropped,
            # First packets, which the standby has served.
            "backend-unknown": self.backend_ids.unknown,
            # Their frontends, of all that are served.
            "frontends-chosen-by-kernel": self._standby.chosen(),
            # Packets that belong to no connection, by the rules.
            "invalid-dropped": self._program.invalid_dropped(),
            # Backends that have no number yet.
            "backends-waiting": sum(ids.waiting for ids in self._ids.values()),
        }

    def uncached_devices(self) -> dict[str, str]:
        """See `Datapath`: there is no cache."""
        return {}

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """See `Datapath`: the kernel carries the flows."""
        return settings.set_in_kernel()

    def render_conntrack(self, settings: ConntrackSettings) -> str:
        """See `Datapath`."""
        return settings.render()

    def counts_bytes(self) -> bool:
        """See `Datapath`: the kernel does if it is told to."""
        return sysctl(ACCOUNTING) != "0"

    def entries(
        self, flows: Sequence[Flow], *, ended: bool = False
    ) -> Sequence[ConntrackEntry | None]:
        """See `Datapath`."""
        sync = self._sync
        return sync.entries(flows, ended=ended) if sync else [None] * len(flows)

    def watch_flows(self, is_watched: bool) -> None:
        """See `Datapath`."""
        before, self._are_flows_watched = self._tells_updates, is_watched
        if self._sync:
            self._sync.watch_flows(is_watched)
        after = self._tells_updates
        if after != before and self._is_installed and self._standby.may_choose:
            self._change_tables(
                [NatTableChange(family, tells_updates=after) for family in self._plan.families]
            )

    def flow_notes(self, packet: bytes) -> list[tuple[str, str]]:
        """See `Datapath`: nothing."""
        return []

    def is_chosen_by_kernel(self, packet: bytes) -> bool:
        """See `Datapath`."""
        ends = packets.ends(packet)
        if ends is None:
            return False
        address, port = ends.destination
        standby = self._standby.of_family(family_of(address))
        decision = standby.get((address, ends.protocol, port))
        return decision is not None and decision.is_chosen

    @contextmanager
    def following(
        self, engine: Engine, cache: CacheSync | None = None
    ) -> Iterator[Sequence[NativeThread]]:
        """See `Datapath`: by the events of the kernel's conntrack, and by resyncs. Flows leave
        `cache` before they end.
        """
        self._sync = ConntrackSync(engine, cache, socket_buffer=EVENT_BYTES)
        self._sync.watch_flows(self._are_flows_watched)
        self._answers = AnswerWatch(engine, socket_buffer=UPDATE_BYTES)
        try:
            with (
                NativeThread(Persistent(self._answers), "answer watch") as answers,
                NativeThread(Persistent(self._sync), "conntrack sync") as sync,
            ):
                yield sync, answers
        finally:
            self._sync = self._answers = None

    def _use(self, facts: PortFacts | None, backends: frozenset[BackendAddress]) -> None:
        if facts is not None:
            family = facts.port.family
            self._assigned[family].update(self._ids[family].acquire(backends))

    def _leave(self, facts: PortFacts | None, backends: frozenset[BackendAddress]) -> None:
        if facts is not None:
            self._leaving[facts.port.family] += backends

    def _introduce(self) -> None:
        """Tell of new backends: the kernel knows them before a verdict can name one."""
        if self._is_installed:
            self._change_tables(
                [
                    NatTableChange(family, added=self._assigned[family])
                    for family in self._plan.families
                ]
            )
        for assigned in self._assigned.values():
            self.backend_ids.update(assigned.items(), [])
        self._assigned = {family: IdsByPort() for family in Family}

    def _resync(self) -> None:
        """Flows have begun while nothing of ours was in the kernel, or foreign rules were."""
        self._flow_checks.take()
        if self._sync:
            self._sync.resync()

    def _change_tables(self, changes: list[NatTableChange]) -> None:
        """These changes, or everything if the kernel does not have all that was before."""
        is_whole, self._is_whole = self._is_whole, False
        shapes = {family: self._table(family).shape for family in self._plan.families}
        if is_whole and self._program.shapes == shapes:
            self._program.update(changes)
        else:
            self._program.install(self._tables())
            # The tables have what is decided by now.
            for family in Family:
                self._standby.take_change(family)
                self._addresses.take_change(family)
                self._hairpins.take_change(family)
        self._is_whole = True

    def _tables(self) -> list[NatTable]:
        return list(map(self._table, self._plan.families))

    def _table(self, family: Family) -> NatTable:
        return NatTable(
            family,
            self._ids[family].ids,
            self._standby.of_family(family),
            self._addresses.ranges[family],
            self._addresses.addresses(family),
            self._plan.options.resets_tcp,
            self._standby.classes.all,
            self._hairpins.addresses(family),
            self._kernel_choice(family) if self._standby.may_choose else None,
            self._program.hash_seed,
            self._is_invalid_dropped(),
        )

    def _is_invalid_dropped(self) -> bool:
        if self._drops_invalid is not None:
            return self._drops_invalid
        # In that mode alone, and not where they are mostly packets out of TCP's windows that
        # conntrack translates then.
        options = self._plan.options
        is_liberal = options.is_conntrack_liberal or sysctl(LIBERAL) not in ("0", None)
        return options.mode is Mode.IPTABLES and not is_liberal

    def _kernel_choice(self, family: Family) -> KernelChoice:
        options = self._plan.options
        networks = [ip_network(text) for text in self._plan.pod_ranges if family_of(text) == family]
        # Elements of a set must not overlap.
        ranges = sorted(map(str, collapse_addresses(networks)))  # type: ignore[type-var]
        device = options.pod_interface.removesuffix("+")
        classes = frozenset(self._standby.chosen_classes)
        return KernelChoice(
            classes, tuple(ranges), device, options.masquerade_all, self._tells_updates
        )

    @property
    def _tells_updates(self) -> bool:
        return self.tells_updates or self._are_flows_watched


def _backend_keys(facts: PortFacts | None) -> frozenset[BackendAddress]:
    return facts.port.backend_keys if facts else frozenset()


def _share_backends(before: PlannedPort, after: PlannedPort) -> bool:
    """Without a look at each backend."""
    return (before.cluster_backends, before.local_backends) == (
        after.cluster_backends,
        after.local_backends,
    )


REFRESH_SECONDS: Final = 2.0
EVENT_BYTES: Final = 16 << 20
"""Of events that wait for us: some 60,000."""
UPDATE_BYTES: Final = 1 << 20
"""The same for connect times, whose events are no loss."""
