"""Property: whatever happens to objects, server and connection, and in whichever order, the node
ends with the plan that a fresh list of the same objects gives. Time is driven.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from random import Random
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import faults
from cluster.answers import ApiServer, Fault
from cluster.memory import MemoryConnection, drive
from cluster.objects import endpoint_slice, node, service
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import Planner
from kbe_nat.sources.kubernetes.resources import watched_resources
from kbe_nat.sources.kubernetes.source import Kubernetes
from kbe_nat.sources.store import Store
from kbe_nat.sources.watch_state import WatchPhase

EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "60"))
OPTIONS: Final = Options(node="node-1")
NAMES: Final = ("a", "b", "c", "d")
FAULTS: Final[dict[str, Callable[[], faults.Change]]] = {
    "410": lambda: faults.status(410),
    "403": lambda: faults.status(403),
    "429": lambda: faults.status(429, 3),
    "500": lambda: faults.status(500),
    "504": lambda: faults.status(504),
    "too large": faults.too_large,
    "expired": faults.expired,
    "empty": faults.empty_list,
    "html": lambda: faults.body(b"<html/>", "text/html"),
    "garbage": lambda: faults.body(b'{"kind":'),
    "silent": faults.silent,
    "slow": lambda: faults.slow(40),
    "cut": lambda: faults.cut(700),
    "cut at once": lambda: faults.cut(0),
    "ended": lambda: faults.ended(700),
    "ended at once": lambda: faults.ended(0),
    "reversed": lambda: faults.shuffled(lambda lines: lines[::-1], 3),
    "twice": lambda: faults.shuffled(lambda lines: lines + lines, 2),
}

steps = st.one_of(
    st.tuples(st.just("service"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("slice"), st.sampled_from(NAMES), st.lists(st.integers(1, 5), max_size=3)),
    st.tuples(st.just("delete"), st.sampled_from(("Service", "EndpointSlice")), st.integers(0, 3)),
    st.tuples(st.just("node"), st.sampled_from(("z1", "z2")), st.none()),
    st.tuples(
        st.just("fault"),
        st.sampled_from(sorted(FAULTS)),
        st.sampled_from(("", "services", "endpointslices")),
    ),
    st.tuples(st.just("down"), st.none(), st.sampled_from((1, 20, 700))),
    st.tuples(st.just("restart"), st.none(), st.none()),
    st.tuples(st.just("backup"), st.none(), st.none()),
    st.tuples(st.just("restore"), st.none(), st.none()),
    st.tuples(st.just("no watch list"), st.booleans(), st.none()),
    st.tuples(st.just("wait"), st.none(), st.sampled_from((0.01, 1, 30, 400))),
)


class Driven(Kubernetes):
    """Its watches run in the test's loop, in the place of a thread's."""

    def _start(self, now: float) -> None:
        self._started = now
        self._thread = threading.current_thread()


class World:
    """A server, a node that follows it, and the node's plan, which grows by what changes touch."""

    def __init__(self) -> None:
        self.server = ApiServer()
        self.connection = MemoryConnection(self.server)
        self.source = Driven(
            lambda: self.connection,
            watched_resources("node-1"),
            Store(),
            random=Random(1),
            clock=lambda: asyncio.get_running_loop().time(),
        )
        self.planner = Planner()
        self.saved = self.server.objects.backup()

    def read(self) -> None:
        if update := self.source.read():
            self.planner.update(update.snapshot, OPTIONS, update.touched)

    async def sleep(self, seconds: float) -> None:
        """The daemon reads now and then."""
        for _ in range(4):
            self.read()
            await asyncio.sleep(seconds / 4)

    async def do(self, step: tuple[str, Any, Any]) -> None:
        action, what, more = step
        objects = self.server.objects
        if action == "service":
            objects.put(service(what, f"172.30.0.{NAMES.index(what)}", 80 + more))
        elif action == "slice":
            objects.put(endpoint_slice(what, [f"10.0.0.{number}" for number in more]))
        elif action == "delete":
            name = NAMES[more] if what == "Service" else f"{NAMES[more]}-abcde"
            resource = "services" if what == "Service" else "endpointslices"
            if ("default", name) in objects.stored[resource]:
                objects.delete(what, name)
        elif action == "node":
            value = node("node-1")
            value["metadata"]["labels"]["topology.kubernetes.io/zone"] = what
            objects.put(value)
        elif action == "fault":
            self.server.faults.append(Fault(FAULTS[what](), more))
        elif action == "down":
            self.connection.is_down = True
            await self.sleep(more)
            self.connection.is_down = False
        elif action == "restart":
            objects.restart()
            self.connection.is_down = True
            self.connection.is_down = False
        elif action == "backup":
            self.saved = objects.backup()
        elif action == "restore":
            objects.restore(*self.saved)
            self.connection.is_down = True
            self.connection.is_down = False
            # Once the versions of before are reached again nothing can tell the two histories
            # apart, to no client.
            await self.sleep(1200)
        elif action == "no watch list":
            self.server.has_watch_list = what
        else:
            await self.sleep(more)

    def fresh_plan(self) -> Plan:
        """By a list of what the server has, in a store of its own."""
        fresh = World()
        fresh.server.objects.restore(*self.server.objects.backup())

        async def listed() -> Plan:
            task = asyncio.create_task(fresh.source._watch())
            while not fresh.is_settled():
                await asyncio.sleep(0.1)
                fresh.read()
            task.cancel()
            return fresh.planner.plan

        return drive(listed())

    def is_settled(self) -> bool:
        return all(
            state.phase is WatchPhase.IN_STEP and not fault.times
            for state in self.source.watches()
            for fault in self.server.faults or [Fault(faults.silent(), times=0)]
        )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(steps, min_size=1, max_size=25))
def test_f104_every_sequence_ends_in_the_plan_of_a_fresh_list(
    sequence: list[tuple[str, Any, Any]],
) -> None:
    world = World()

    async def live() -> None:
        world.server.objects.put(node("node-1"), service("a", "172.30.0.0"))
        task = asyncio.create_task(world.source._watch())
        for step in sequence:
            await world.do(step)
            world.read()
        # Faults that no request has met are over now. Within two rounds of watches and silences
        # everything must have come right.
        world.server.faults.clear()
        await world.sleep(1500)
        world.server.objects.put(service("d", "172.30.0.9", 999))
        await world.sleep(5)
        assert not task.done() or task.result()
        assert world.is_settled(), world.source.watches()
        task.cancel()

    drive(live())
    assert world.planner.plan == world.fresh_plan()
