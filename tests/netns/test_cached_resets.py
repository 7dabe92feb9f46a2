"""Connections that the flow cache carries, and that end by RST: conntrack has missed their latest
acknowledgements, and cannot tell such a RST from a forged one.
"""

import fcntl
import json
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness import traffic
from harness.cached import (
    BULK,
    NEAR,
    Talk,
    await_backend,
    cached_daemon,
    counters,
    forge,
    next_sequence,
    serve,
    serve_bulk,
    talk,
)
from harness.clients import FAMILIES, NAMES, PORT, VIPS, Clients
from harness.daemons import COMMAND, Daemon
from harness.programs import VOLUME_SERVER
from harness.tracked import rows, tracked
from harness.waiting import eventually
from kbe_nat.client import ask_rows
from kbe_nat.daemon.rows import FlowRow
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside

CONNECTIONS = 12
MANY, ROUNDS, RETRY_SECONDS = 600, 9, 0.26
"""More notices than wait for the daemon: 4,096."""
LINGER = struct.pack("ii", 1, 0)
"""Closing sends a RST."""
UNSEEN = 16 << 20
"""Bytes: more than a connection has on its way."""
ENDING_SECONDS = 120
"""Conntrack's longest timeout of a connection that has seen a FIN or RST."""
VOLUME = 2800 << 20
"""Bytes: more than half of all sequence numbers."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with cached_daemon(tmp_path) as made:
        yield made


@FAMILIES
def test_the_timeout_of_connections_that_were_reset_is_not_renewed(
    daemon: Daemon, family: Family
) -> None:
    with cached_connections(daemon, family) as talks:
        for own in talks:
            own.ask()
            reset(own)
            # At once, before the daemon has judged the reset: a command would take longer.
            assert any(ask_rows(daemon.socket, "flows", FlowRow))
            assert tracked(daemon.cluster, own).timeout <= 10
        eventually(lambda: not any(rows(daemon.cluster, own) for own in talks), 20)


@FAMILIES
@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("pause", [0.0, 1.2], ids=["at_once", "after_a_second"])
def test_a_port_that_is_used_again_after_a_reset_gets_a_new_choice(
    daemon: Daemon, family: Family, end: str, pause: float
) -> None:
    with talk(daemon, family, "tcp") as own:
        own.await_cache()
        serve(daemon, "b")
        await_backend(daemon, backend("b", family))
        for _ in range(20):
            assert own.ask() == "a", "a connection stays where it is"
        if end == "client":
            reset(own)
        else:
            reset_by_server(daemon, own)
        # What is tried is the time itself: the daemon has seen to the reset by then, or not.
        time.sleep(pause)
        later = again(daemon, own)
        with later.socket:
            assert later.ask() == "b"


@FAMILIES
def test_connections_that_were_reset_are_over_at_once(daemon: Daemon, family: Family) -> None:
    with cached_connections(daemon, family) as talks:
        for own in talks:
            own.ask()
            reset(own)
        eventually(lambda: not any(is_established(daemon, own) for own in talks), 5)
        eventually(lambda: not daemon.get("flows"), 20)


@FAMILIES
def test_a_connection_with_a_forged_reset_lives_and_is_cached_again(
    daemon: Daemon, family: Family
) -> None:
    with talk(daemon, family, "tcp") as own:
        own.await_cache()
        forge(daemon, own, traffic.RST, next_sequence(own.socket) + NEAR)
        for _ in range(CONNECTIONS):
            own.ask()
        # Without a resync: what the programs tell brings it back.
        eventually(own.is_cached, 10)
        assert is_established(daemon, own)


@FAMILIES
@pytest.mark.parametrize("flags", [traffic.RST, traffic.FIN | traffic.ACK], ids=["rst", "fin"])
def test_an_idle_connection_outlives_what_is_forged_out_of_its_window(
    daemon: Daemon, family: Family, flags: int
) -> None:
    with talk(daemon, family, "tcp") as own:
        own.await_cache()
        ended = counters(daemon)["cache-ended"]
        sequence = next_sequence(own.socket) + (1 << 31)
        forge(daemon, own, flags, sequence, "cache-out-of-window")
        assert is_established(daemon, own)
        assert tracked(daemon.cluster, own).timeout > ENDING_SECONDS
        assert own.is_cached()
        assert counters(daemon)["cache-ended"] == ended


@FAMILIES
@pytest.mark.parametrize("end", ["client", "server"])
def test_a_reset_arrives_after_more_bytes_than_sequence_numbers_tell_apart(
    daemon: Daemon, family: Family, end: str
) -> None:
    server = serve_bulk(daemon, family, VOLUME_SERVER)
    block = bytearray(1 << 20)
    with talk(daemon, family, "tcp", (BULK[family], PORT)) as own:
        own.socket.settimeout(60)
        own.await_cache()
        if end == "client":
            own.socket.sendall(b"take\n")
            for _ in range(VOLUME // len(block)):
                own.socket.sendall(block)
            reset(own)
            assert server.stdout is not None
            assert server.stdout.readline() == "reset\n"
        else:
            own.socket.sendall(f"give {VOLUME}\n".encode())
            left = VOLUME
            while left:
                left -= own.socket.recv_into(block)
            own.socket.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                own.socket.recv(1)
        eventually(lambda: not is_established(daemon, own), 5)


@FAMILIES
def test_a_reset_arrives_after_bytes_that_the_programs_have_not_seen(
    daemon: Daemon, family: Family
) -> None:
    server, node = serve_bulk(daemon, family, VOLUME_SERVER), daemon.cluster.node
    by_dscp = ("dsfield", "0x10", "lookup", "77", "priority", "40")
    with talk(daemon, family, "tcp", (BULK[family], PORT)) as own:
        own.await_cache()
        node.call("ip", f"-{family}", "rule", "add", *by_dscp)
        eventually(lambda: len(uncached_devices(daemon)) > 1)
        own.socket.sendall(b"take\n" + bytes(UNSEEN))
        eventually(lambda: is_acknowledged(own))
        node.call("ip", f"-{family}", "rule", "delete", *by_dscp)
        eventually(lambda: not uncached_devices(daemon))
        reset(own)
        assert server.stdout is not None
        assert select.select([server.stdout], [], [], 10)[0], counters(daemon)
        assert server.stdout.readline() == "reset\n"


@FAMILIES
def test_what_the_daemon_is_not_told_of_is_counted_and_said(daemon: Daemon, family: Family) -> None:
    assert doctors_word(daemon)["state"] == "ok"
    with Clients(daemon.cluster, family, MANY, socket.SOCK_STREAM) as clients:
        assert set(clients.asked()) == {"a"}

        eventually(lambda: clients.asked() and counters(daemon)["cache-proposed"] >= MANY)
        # What is proposed is entered with the next packet.
        clients.asked()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(ROUNDS):
                reset_all(daemon, family, clients)
                # As often as the programs tell of one reset; the time itself is what is needed.
                time.sleep(RETRY_SECONDS)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        eventually(lambda: counters(daemon)["cache-untold"] > 0)
    row = doctors_word(daemon)
    assert row["state"] == "note" and "found no room" in row["found"]


def reset_all(daemon: Daemon, family: Family, clients: Clients) -> None:
    """A RST of each client's ends, which the server does not take for one."""
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
    link = inside(
        daemon.cluster.client.path,
        lambda: socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW),
    )
    with link:
        for client in clients.sockets:
            source, sport = client.getsockname()[:2]
            sequence = next_sequence(client) + NEAR
            segment = traffic.tcp(sport, PORT, traffic.RST, sequence, 0)
            packet = traffic.ip(source, VIPS[family], socket.IPPROTO_TCP, segment)
            link.sendto(packet, (VIPS[family], 0))


def uncached_devices(daemon: Daemon) -> dict[str, str]:
    devices = daemon.get("stats")["uncached_devices"]
    assert isinstance(devices, dict)
    return devices


def is_acknowledged(own: Talk) -> bool:
    """Whether the other end has all that was sent."""
    waiting = fcntl.ioctl(own.socket, termios.TIOCOUTQ, bytes(4))
    return waiting == bytes(4)


def doctors_word(daemon: Daemon) -> dict[str, str]:
    """What `doctor` says of the daemon's notices."""
    words = ("doctor", "-o", "json", "--socket", str(daemon.socket))
    text = daemon.cluster.node.call(*COMMAND, *words)
    [row] = [row for row in json.loads(text)["items"] if row["name"] == "cache-notices"]
    return dict(row)


@contextmanager
def cached_connections(daemon: Daemon, family: Family) -> Iterator[list[Talk]]:
    with ExitStack() as stack:
        talks = [stack.enter_context(talk(daemon, family, "tcp")) for _ in range(CONNECTIONS)]
        for own in talks:
            own.await_cache()
        yield talks


def backend(pod: str, family: Family) -> str:
    address = NAMES[pod][family]
    return f"[{address}]:9953" if family == Family.IPV6 else f"{address}:9953"


def is_established(daemon: Daemon, own: Talk) -> bool:
    return any("ESTABLISHED" in row for row in rows(daemon.cluster, own))


def again(daemon: Daemon, own: Talk) -> Talk:
    """Another connection with the same ends."""

    def opened() -> socket.socket:
        later = socket.socket(own.socket.family)
        later.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        later.settimeout(10)
        later.bind(own.source)
        later.connect(own.destination)
        return later

    later = inside(daemon.cluster.client.path, opened)
    return Talk(later, daemon, own.source, own.destination)


def reset_by_server(daemon: Daemon, own: Talk) -> None:
    """The pod's kernel ends the connection by RST."""
    daemon.cluster.pods[0].call("ss", "-K", "-Htn", "dport", "=", str(own.source[1]))
    with pytest.raises(ConnectionResetError):
        own.socket.recv(1)
    own.socket.close()


def reset(own: Talk) -> None:
    """The client ends the connection by RST."""
    own.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    own.socket.close()
