"""The datapath whose engine decides about the first packet of a flow; the kernel translates all of
its packets.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat._native import BackendIdMap, ConntrackSync, Engine, NftTables
from kbe_nat.datapath.courses import Courses
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.sysctl import ACCOUNTING, sysctl
from kbe_nat.drivers.thread import NativeThread, Persistent
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.policy.plan import Plan, PlannedPort
from kbe_nat.remembered import Remembered
from kbe_nat.rules.backend_ids import Address, Numbering
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.frontends import Frontends
from kbe_nat.rules.nat_program import NatProgram, NatTableChange
from kbe_nat.rules.nat_table import NatTable
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.rules.standby import OnDeath, Standby, StandbyChoice


class FirstPacket:
    """A `Datapath` whose flows the kernel carries."""

    way = DatapathKind.FIRST_PACKET

    def __init__(
        self,
        diversion: Diversion,
        runner: Runner,
        tables: NftTables,
        on_death: OnDeath = OnDeath.SERVE,
        leftovers: Callable[[], None] | None = None,
    ) -> None:
        """`runner` runs nft in the network namespace of `tables`; `on_death` says what new
        connections meet when we are gone; `leftovers` takes away what a run of the other datapath
        has left.
        """
        self.backend_ids = BackendIdMap(diversion.marks.backend)
        self._diversion = diversion
        self._leftovers = leftovers
        self._program = NatProgram(runner, tables, diversion.marks, diversion.queues)
        self._frontends = Frontends()
        self._backends = Remembered(_backends)
        self._leaving: list[tuple[Family, set[Address]]] = []
        """Backends of ports that the newest plan has changed or taken away, by family."""
        self._courses = Courses()
        mask = diversion.marks.backend
        largest = mask // (mask & -mask)
        self._numbering = {
            number: Numbering(largest, time.monotonic) for number in (Family.IPV4, Family.IPV6)
        }
        self._standby = StandbyChoice(on_death)
        self._sync: ConntrackSync | None = None
        self._is_installed = False
        self._is_whole = False
        """The kernel has taken every change."""

    def prepare(self, plan: Plan) -> None:
        """See `Datapath`. New backends are known to the kernel before the engine chooses one of
        them; those for which no number is free yet get the standby's connections until `repair`
        finds one.
        """
        findings = self._backends.findings(plan.ports, plan.changes)
        given = {number: self._numbering[number].supply() for number in plan.families}
        for number, some in findings.arrived:
            given[number] |= self._numbering[number].arrive(some)
        self._backends.keep(findings)
        self._leaving += findings.left
        self._courses.follow(plan)
        self._introduce(plan, given)

    def install(self, plan: Plan) -> None:
        """See `Datapath`."""
        self._is_installed = False
        self.prepare(plan)
        for numbering in self._numbering.values():
            if numbering.shortage:
                raise RulesError(numbering.shortage)
        self._standby.follow(plan)
        self._is_whole = False
        self._change_tables(plan, [])
        self._is_installed = True
        self._resync()
        if self._leftovers:
            self._leftovers()

    def update(self, plan: Plan) -> None:
        """See `Datapath`."""
        self._standby.follow(plan)
        reached = self._frontends.reached(plan)
        gone: dict[Family, dict[Address, int]] = {number: {} for number in plan.families}
        for number, some in self._leaving:
            gone.setdefault(number, {}).update(self._numbering[number].leave(some))
        self._leaving = []
        self.backend_ids.update([], [own for some in gone.values() for own in some])
        self._change_tables(
            plan,
            [
                NatTableChange(
                    number,
                    removed=gone[number],
                    standby=self._standby.standby[number],
                    standby_change=self._standby.changes.get(number),
                    addresses=reached[number].addresses,
                )
                for number in plan.families
            ],
        )
        touched = self._courses.take_touched()
        if touched and self._sync:
            self._sync.resync_frontends(
                [(protocol, address, port) for address, protocol, port in touched]
            )

    def repair(self, plan: Plan) -> tuple[str, ...]:
        """See `Datapath`."""
        missing = self._program.missing()
        if missing:
            self._is_whole = False
            self._change_tables(plan, [])
            self._resync()
            return missing
        given = {number: self._numbering[number].supply() for number in plan.families}
        if any(given.values()):
            self._introduce(plan, given)
        for numbering in self._numbering.values():
            if numbering.shortage:
                raise RulesError(f"{numbering.shortage}; new connections to them get the standby")
        return ()

    def remove(self) -> None:
        """See `Datapath`. Flows that the kernel carries go on."""
        self._is_installed = False
        self._program.remove()

    def is_present(self) -> bool:
        """See `Datapath`."""
        return self._program.is_present()

    def render(self, plan: Plan) -> str:
        """See `Datapath`."""
        if not self._is_installed:
            self.prepare(plan)
            self._standby.follow(plan)
        return self._program.render(self._whole(plan))

    def refresh(self) -> None:
        """See `Datapath`: asks the kernel."""
        if self._sync:
            self._sync.resync_within(REFRESH_SECONDS)

    def counters(self) -> dict[str, int]:
        """See `Datapath`."""
        sync = self._sync
        insert_failed, dropped = sync.statistics() if sync else (0, 0)
        return {
            # Of all flows of the kernel, those of others too.
            "events": sync.changes if sync else 0,
            # A full resync followed each.
            "events-lost": sync.overruns if sync else 0,
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
            # Backends that have no number yet.
            "backends-waiting": sum(numbering.waiting for numbering in self._numbering.values()),
        }

    def counts_bytes(self) -> bool:
        """See `Datapath`: the kernel does if it is told to."""
        return sysctl(ACCOUNTING) != "0"

    @contextmanager
    def following(self, engine: Engine) -> Iterator[NativeThread | None]:
        """See `Datapath`: by the events of the kernel's conntrack, and by resyncs."""
        self._sync = ConntrackSync(engine, socket_buffer=EVENT_BYTES)
        try:
            with NativeThread(Persistent(self._sync), "conntrack sync") as thread:
                yield thread
        finally:
            self._sync = None

    def _introduce(self, plan: Plan, given: dict[Family, dict[Address, int]]) -> None:
        """Numbers of new backends, by family: the kernel knows them before a verdict can name one."""
        if self._is_installed:
            self._change_tables(
                plan, [NatTableChange(number, added=some) for number, some in given.items()]
            )
        self.backend_ids.update(
            [(*own, number) for some in given.values() for own, number in some.items()], []
        )

    def _resync(self) -> None:
        """Flows have begun while nothing of ours was in the kernel, or somebody else's."""
        self._courses.take_touched()
        if self._sync:
            self._sync.resync()

    def _change_tables(self, plan: Plan, changes: list[NatTableChange]) -> None:
        """These changes, or everything if the kernel does not have all that was before."""
        is_whole, self._is_whole = self._is_whole, False
        whole = self._whole(plan)
        if is_whole and self._program.shapes == {own.family: own.shape for own in whole}:
            self._program.update(changes)
        else:
            self._program.install(whole)
        self._is_whole = True

    def _whole(self, plan: Plan) -> list[NatTable]:
        return [
            NatTable(
                number,
                self._numbering[number].numbers,
                self._standby.standby.get(number, Standby()),
                reached.ranges,
                reached.addresses,
                plan.options.resets_tcp,
            )
            for number, reached in self._frontends.reached(plan).items()
        ]


def _backends(policy: PlannedPort) -> tuple[Family, set[Address]]:
    """Family and endpoints."""
    return policy.family, {
        (own.address, own.port) for own in (*policy.cluster_backends, *policy.local_backends)
    }


REFRESH_SECONDS: Final = 2.0
EVENT_BYTES: Final = 16 << 20
"""Of events that wait for us: some 60,000."""
