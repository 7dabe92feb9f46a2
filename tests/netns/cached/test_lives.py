"""The daemon hangs, is replaced, and changes its datapath, while flows of all kinds go on."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.cached import Talk, steadily
from harness.clients import Clients
from harness.daemons import Daemon
from harness.tracked import kernel_sees
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.rules.rule import DatapathKind
from netns.cached.legs import ask_all, audit, await_cache, counters, talks

EVERY, FIRST, CACHED = DatapathKind
CLIENTS = 250
"""Of each protocol and family."""


@contextmanager
def all_steadily(flows: list[Talk]) -> Iterator[None]:
    """A packet of each every 20 ms: none is lost."""
    with ExitStack() as stack:
        for own in flows:
            stack.enter_context(steadily(own))
        yield


def test_no_packet_is_lost_while_the_daemon_is_stopped_and_replaced(daemon: Daemon) -> None:
    assert daemon.process is not None
    with talks(daemon) as flows, talks(daemon, protocols=["udp"]) as others:
        await_cache([*flows, *others])
        with all_steadily(flows):
            daemon.process.send_signal(signal.SIGSTOP)
            # All packets go the kernel's way by then.
            eventually(lambda: kernel_sees(others[0]))
            daemon.process.send_signal(signal.SIGCONT)
            daemon.end(signal.SIGUSR2)
            daemon.start()
        await_cache(flows)
        audit(flows)


def test_connections_outlive_each_change_of_the_datapath(daemon: Daemon) -> None:
    with talks(daemon) as flows:
        await_cache(flows)
        for kind in (EVERY, CACHED, FIRST, CACHED):
            daemon.wait_for_checkpoint()
            daemon.end(signal.SIGUSR2)
            daemon.datapath = kind
            daemon.start()
            assert ask_all(flows) == {"a"}, kind
            if kind == CACHED:
                await_cache(flows)
        audit(flows)


def test_many_more_flows_than_there_is_room_for(daemon: Daemon) -> None:
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-flows", "32")
    with ExitStack() as stack:
        groups = [
            stack.enter_context(Clients(daemon.cluster, family, CLIENTS, kind))
            for family in Family
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        ]
        datagrams = [client for group in groups[::2] for client in group.sockets]
        ends = {("udp", join_address(*client.getsockname()[:2])) for client in datagrams}
        asked = 0

        def is_full() -> bool:
            nonlocal asked
            asked += 1
            assert all(set(group.asked()) == {"a"} for group in groups)
            found = counters(daemon)
            assert found["cache-flows"] <= 32
            return found["cache-no-room"] > 0 and found["cache-hits"] > 500

        eventually(is_full)

        def is_right() -> bool:
            rows = [row for row in daemon.get("flows") if (row["protocol"], row["source"]) in ends]
            # A busy machine is asked once more.
            again = sum(group.questions - asked * CLIENTS for group in groups)
            return bool(rows) and all(
                asked <= count <= asked + again for row in rows for count in row["packets"]
            )

        eventually(is_right)
