"""`kbe-nat conntrack` beside conntrack(8): in the datapath first-packet marks, numbers and the ends
of replies are the kernel's.
"""

import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.clients import FAMILIES, NAMES, VIPS, Clients, endpoints, named, service
from harness.daemons import Daemon, patched
from harness.flow_events import EVENTS, KINDS, port_of, steps, watch
from harness.programs import SMALL_BUFFERS
from harness.stage import OFFLOADING, add_ipv6
from harness.tracked import set_timeout
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import end_parts
from kbe_nat.playground.cluster import Cluster

MARKS = {"udp": 0x2A, "tcp": 0x1000}
CLIENT = {4: "10.0.2.100", 6: "fd00:2::100"}
RESYNC_SECONDS = 20
"""A resync rests for less after losses. Every half minute one comes anyway."""
TIMEOUT = re.compile(r"(?<=\s)\d+(?= (?:[A-Z_]+ )?src=)")


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """Of both families; not yet started."""
    (tmp_path / "objects").mkdir()
    add_ipv6(cluster)
    named(cluster)
    with Daemon(cluster, tmp_path, request.param) as made:
        yield made


def mark(daemon: Daemon, family: Family) -> None:
    """Another program on the node marks connections."""
    iptables = "iptables" if family == 4 else "ip6tables"
    for protocol, value in MARKS.items():
        rule = ("-p", protocol, "-d", VIPS[family], "-j", "CONNMARK", "--set-mark", hex(value))
        daemon.cluster.node.call(iptables, "-t", "mangle", "-A", "PREROUTING", *rule)


def real(daemon: Daemon, family: Family, *flags: str) -> list[str]:
    """The lines of conntrack(8)."""
    own = ("-d", VIPS[family], "-f", f"ipv{family}", "-o", "extended,id")
    return daemon.cluster.node.call("conntrack", "-L", *own, *flags).splitlines()


def alike(ours: list[str], theirs: list[str]) -> bool:
    """Whether these are the same lines in some order, up to two seconds."""
    seconds = [
        {TIMEOUT.sub("", line): int(found[0]) for line in lines if (found := TIMEOUT.search(line))}
        for lines in (ours, theirs)
    ]
    assert seconds[0].keys() == seconds[1].keys(), (ours, theirs)
    assert len(ours) == len(theirs) == len(seconds[0])
    return all(abs(seconds[0][line] - seconds[1][line]) <= 2 for line in seconds[0])


@FAMILIES
@pytest.mark.parametrize("is_masqueraded", [False, True])
def test_lines_are_those_of_conntrack(daemon: Daemon, family: Family, is_masqueraded: bool) -> None:
    daemon.cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_acct", "1")
    daemon.write("dns.yaml", service(family) + endpoints(family, "a", "b"))
    daemon.start(*(["--masquerade-all"] if is_masqueraded else []))
    mark(daemon, family)

    def listed(*flags: str) -> list[str]:
        return daemon.ask("conntrack", "-L", "-o", "extended,id", *flags).splitlines()

    with ExitStack() as stack:
        for kind in KINDS.values():
            assert all(stack.enter_context(Clients(daemon.cluster, family, 3, kind)).asked())
        theirs = real(daemon, family)
        assert [sum(f" mark={value} " in line for line in theirs) for value in MARKS.values()] == [
            3,
            3,
        ]
        assert alike(listed(), theirs)
        for flags in (
            ("-m", "0x1000"),
            ("-m", "4096/0x1000"),
            ("--mark", "0x2a/0xff"),
            ("-m", "0/0x1000"),
            ("-m", "7"),
            ("-q", CLIENT[family]),
            ("-q", "192.0.2.7" if family == 4 else "2001:db8::7"),
        ):
            assert alike(listed(*flags), real(daemon, family, *flags)), flags
        replies = {end_parts(row["reply_destination"])[0] for row in daemon.get("flows")}
        assert (CLIENT[family] in replies) is not is_masqueraded
        assert {row["kernel"]["mark"] for row in daemon.get("flows")} == {*MARKS.values()}
        assert daemon.ask("get", "flows", "-o", "wide", "--no-headers").count("0x1000") == 3


@FAMILIES
@pytest.mark.parametrize("kind", KINDS)
def test_events_are_those_of_conntrack(
    daemon: Daemon, family: Family, kind: str, tmp_path: Path
) -> None:
    """Each with the state of its moment, from the beginning to the end of the talk. The first
    connections show that both programs listen; a later one is compared.
    """
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    node = daemon.cluster.node
    words = ("conntrack", "-E", "-p", kind, "-f", f"ipv{family}", "-d", VIPS[family])

    def connect() -> None:
        with Clients(daemon.cluster, family, 1, KINDS[kind]) as clients:
            assert clients.asked() == ["a"]

    def are_heard() -> bool:
        connect()
        return all(EVENTS[kind] in steps(path).values() for path in (ours, theirs))

    with theirs.open("w") as out, subprocess.Popen([*node.prefix, *words], stdout=out) as listener:
        try:
            with watch(daemon, ours):
                eventually(are_heard)
                before = steps(theirs).keys()
                connect()
                port = eventually(lambda: next(iter(steps(theirs).keys() - before), ""))
                eventually(lambda: steps(theirs)[port] == EVENTS[kind])
                eventually(lambda: steps(ours).get(port) == EVENTS[kind])
        finally:
            listener.terminate()


@FAMILIES
@pytest.mark.parametrize("kind", KINDS)
def test_what_lost_events_said_is_made_good(
    daemon: Daemon, family: Family, kind: str, tmp_path: Path
) -> None:
    """Nobody asks for a list before that, which would look at the kernel's flows by itself."""
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    set_timeout(daemon.cluster, "udp_timeout", 600)
    daemon.start(environment=patched(tmp_path, SMALL_BUFFERS))
    cluster, events = daemon.cluster, tmp_path / "events"
    pod = (NAMES["a"][family], 9953)

    def ends(path: Path) -> set[str]:
        """The ports of clients whose connections have ended."""
        lines = path.read_text().splitlines()
        return {port_of(line) for line in lines if "[DESTROY]" in line and " sport=" in line}

    with ExitStack() as stack:
        stack.enter_context(watch(daemon, events))

        def are_heard() -> bool:
            with Clients(cluster, family, 1, KINDS[kind]) as clients:
                assert clients.asked() == ["a"]
            return EVENTS[kind] in steps(events).values()

        eventually(are_heard)
        clients = stack.enter_context(Clients(cluster, family, 3, KINDS[kind]))
        assert clients.asked() == ["a"] * 3
        closed, deleted, kept = (str(each.getsockname()[1]) for each in clients.sockets)
        eventually(lambda: {closed, deleted, kept} <= steps(events).keys())
        # This resyncs, so that half a minute passes until the next one that no loss has asked for.
        assert len(daemon.get("flows")) >= 3
        before = daemon.get("stats")["kernel"]
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            # Others' flows fill what the kernel keeps for us: each begins, changes and ends.
            with Clients(cluster, family, 150, socket.SOCK_STREAM, pod) as others:
                assert set(others.asked()) == {"a"}
            clients.sockets[0].close()
            node_words = ("-f", f"ipv{family}", "-p", kind, "--orig-port-src", deleted)
            cluster.node.call("conntrack", "-D", *node_words)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        eventually(lambda: deleted in ends(events), RESYNC_SECONDS)
        if kind == "tcp":
            eventually(lambda: "TIME_WAIT" in steps(events)[closed][-1], RESYNC_SECONDS)
        after = daemon.get("stats")["kernel"]
        assert after["events-lost"] > before["events-lost"]
        assert after["resyncs"] > before["resyncs"]
        assert kept not in ends(events)
        # The daemon hears of the next one as before.
        eventually(are_heard)
        known = set(steps(events))
        with Clients(cluster, family, 1, KINDS[kind]) as late:
            assert late.asked() == ["a"]
        eventually(lambda: EVENTS[kind] in [v for k, v in steps(events).items() if k not in known])
        flows = {
            str(end_parts(row["source"])[1]): row["state"] or "" for row in daemon.get("flows")
        }
        states = {port_of(line): state_of(line) for line in real(daemon, family)}
        assert flows == states
        assert kept in flows and deleted not in flows


def state_of(line: str) -> str:
    """The state of a connection in a list, as far as its protocol has one."""
    return next((word for word in line.split() if word.isupper() and word.isascii()), "")


@FAMILIES
def test_an_event_of_the_end_has_what_the_kernel_had(
    daemon: Daemon, family: Family, tmp_path: Path
) -> None:
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start("--masquerade-all")
    mark(daemon, family)
    node, events = daemon.cluster.node, tmp_path / "events"
    # Nothing is to end by itself meanwhile.
    node.write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "600")

    def connect() -> None:
        with Clients(daemon.cluster, family, 1, socket.SOCK_STREAM) as clients:
            assert clients.asked() == ["a"]
            clients.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def told() -> str:
        connect()
        return events.read_text()

    def told_of(line: str) -> list[str]:
        number = line.rpartition(" ")[2]
        return [row for row in events.read_text().splitlines() if row.endswith(number)]

    # One that has begun ahead of the watch. The kernel's own word about one that is closed is the
    # end of it; one of an established connection would be remembered.
    connect()
    eventually(lambda: " CLOSE " in real(daemon, family)[0])
    (early,) = real(daemon, family)
    with watch(daemon, events):
        eventually(lambda: " mark=" in told())
        eventually(lambda: all(" CLOSE " in line for line in real(daemon, family)))
        node.call("conntrack", "-D", "-f", f"ipv{family}", "-d", VIPS[family])
        destroyed = eventually(lambda: told_of(early))[0]
        new = next(row for row in events.read_text().splitlines() if " mark=" in row)
        eventually(lambda: "[DESTROY]" in told_of(new)[-1])
    assert words(destroyed) == words(early)
    assert all(" mark=4096 " in row for row in told_of(new))


def words(line: str) -> list[str]:
    """Ends, mark and number of a line, and what else of it an event of the end has."""
    ends = line[line.index("src=") :].split()
    return [word for word in ends if word not in ("use=1", "[ASSURED]")]


RESET = struct.pack("ii", 1, 0)
"""A connection that lingers for no time is reset."""
