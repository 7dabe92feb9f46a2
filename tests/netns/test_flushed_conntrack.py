"""Others delete conntrack's entries while flows of which the endpoint sends first are live."""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import pytest

from harness.cached import TABLE, await_backend, cached_node, counters, serve
from harness.clients import FAMILIES, NAMES, PORT, VIPS, Clients, endpoints, service
from harness.daemons import Daemon
from harness.programs import PUSHER
from harness.repeating import repeating
from harness.stage import OFFLOADING_DATAPATHS, served
from harness.waiting import eventually
from kbe_nat.client import ask_rows
from kbe_nat.daemon.rows import FlowRow
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.rules.rule import DatapathKind

PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PUSHED = {Family.IPV4: "172.30.0.57", Family.IPV6: "fd00:30::57"}
POD_END = {Family.IPV4: "172.17.0.3", Family.IPV6: "[fd00:17::3]"}
COUNT, FEW = 200, 64


@pytest.fixture
def datapath() -> DatapathKind:
    """Where a test does not say it."""
    return DatapathKind.FIRST_PACKET


@pytest.fixture
def arguments() -> tuple[str, ...]:
    """Of the daemon, where a test does not say them."""
    return ()


@pytest.fixture
def daemon(tmp_path: Path, datapath: DatapathKind, arguments: tuple[str, ...]) -> Iterator[Daemon]:
    """It serves a pod that talks by itself."""
    with cached_node(tmp_path) as made:
        made.datapath = datapath
        served(made.cluster.pods[0], PUSHER, "5002")
        for family in Family:
            pushed = service(family, "pushed", PUSHED[family])
            slices = endpoints(family, "a", name="pushed")
            text = (pushed + slices).replace("targetPort: 9953", "targetPort: 5002")
            made.write(f"pushed{family}.yaml", text.replace("port: 9953", "port: 5002"))
        made.start(*arguments)
        for family in Family:
            await_backend(made, f"{POD_END[family]}:5002")
        yield made


def has_forgotten(daemon: Daemon, count: int) -> bool:
    return counters(daemon)["flows-forgotten"] >= count


def delete(daemon: Daemon, *selection: str) -> None:
    """Has `conntrack -D` delete entries, until it comes to the end of its list: it stops at one
    that has ended by itself since.
    """

    def is_through() -> bool:
        try:
            daemon.cluster.node.call("conntrack", "-D", *selection)
        except PlaygroundError as error:
            if "such conntrack doesn't exist" in str(error):
                return False
            # The turn before has deleted all others.
            if " 0 flow entries" not in str(error):
                raise
        return True

    eventually(is_through)


def flush(daemon: Daemon, *selection: str) -> None:
    daemon.cluster.node.call("conntrack", "-F", *selection)


def tuples(daemon: Daemon, family: Family) -> list[tuple[str, str]]:
    """Of each flow of the clients to the frontend, their port, and the one that is answered to."""
    rows = daemon.cluster.node.call("conntrack", "-L", "-f", f"ipv{family}").splitlines()
    return [
        (row.split("sport=")[1].split()[0], row.rsplit("dport=")[-1].split()[0])
        for row in rows
        if f" dst={PUSHED[family]} " in row
    ]


def talking(clients: Clients) -> AbstractContextManager[None]:
    """Every client sends all the time, so that each deletion meets packets on their way."""

    def send() -> None:
        for client in clients.sockets:
            with suppress(OSError):
                client.send(b"x")

    return repeating(send, 0.001)


def silent(clients: Clients, seconds: float) -> int:
    """How many clients hear nothing within this time, or that their connection is over."""
    with selectors.DefaultSelector() as selector:
        for client in clients.sockets:
            client.setblocking(False)
            while True:
                try:
                    if not client.recv(1 << 16):
                        break
                except BlockingIOError:
                    selector.register(client, selectors.EVENT_READ)
                    break
                except OSError:
                    break
        deadline, heard = time.monotonic() + seconds, 0
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(deadline - time.monotonic()):
                own = key.fileobj
                assert isinstance(own, socket.socket)
                selector.unregister(own)
                with suppress(OSError):
                    heard += bool(own.recv(1 << 16))
    return len(clients.sockets) - heard


@OFFLOADING_DATAPATHS
@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("remove", [flush, delete])
def test_f139_flows_go_on_whose_entries_others_delete_while_the_endpoint_talks(
    daemon: Daemon, family: Family, protocol: str, remove: Callable[..., None]
) -> None:
    selection = ("-p", protocol) if remove is delete else ()
    to = (PUSHED[family], PORT)
    with Clients(daemon.cluster, family, COUNT, KINDS[protocol], to) as clients:
        for client in clients.sockets:
            client.send(b"begin")
        assert not silent(clients, 10)
        if daemon.datapath is DatapathKind.CACHED:
            eventually(lambda: counters(daemon)["cache-proposed"] >= COUNT)
        for turn in (1, 2, 3):
            remove(daemon, "-f", f"ipv{family}", *selection)
            eventually(partial(has_forgotten, daemon, turn * COUNT))
            # They are counted before they are back.
            eventually(lambda: len(tuples(daemon, family)) == COUNT)
        assert silent(clients, 10) == 0
        # None is heard whose entry is not back, so all are by now.
        entries = tuples(daemon, family)
        assert len(entries) == COUNT
        assert all(source == answered for source, answered in entries), "each keeps its port"


@OFFLOADING_DATAPATHS
@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("arguments", [("--masquerade-all",)])
def test_f139_masqueraded_flows_keep_their_port_while_both_ends_talk(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    to = (PUSHED[family], PORT)
    with Clients(daemon.cluster, family, FEW, KINDS[protocol], to) as clients, talking(clients):
        assert not silent(clients, 10)
        # Younger flows may have datagrams that were queued together with the first one.
        eventually(lambda: min(row.age for row in ask_rows(daemon.socket, "flows", FlowRow)) >= 2)
        before = sorted(tuples(daemon, family))
        assert len(before) == FEW
        assert any(source != answered for source, answered in before), "they are masqueraded"
        for _ in range(3):
            forgotten = counters(daemon)["flows-forgotten"]
            flush(daemon, "-f", f"ipv{family}")
            eventually(partial(has_forgotten, daemon, forgotten + FEW))
        assert silent(clients, 10) == 0
        assert sorted(tuples(daemon, family)) == before


@OFFLOADING_DATAPATHS
@FAMILIES
def test_f139_datagrams_that_are_quicker_than_the_event_stay_at_their_endpoint(
    daemon: Daemon, family: Family
) -> None:
    serve(daemon, "a", "b")
    for name in "ab":
        address = NAMES[name][family]
        await_backend(daemon, f"[{address}]:9953" if family == Family.IPV6 else f"{address}:9953")
    with Clients(daemon.cluster, family, FEW) as clients:
        before = dict(zip(clients.sockets, clients.asked(), strict=True))
        assert set(before.values()) == {"a", "b"}
        heard: dict[socket.socket, set[str]] = {client: set() for client in before}
        for client in before:
            client.setblocking(False)

        def hurry() -> None:
            # As quick as can be: each deletion meets datagrams on their way.
            for client in before:
                with suppress(OSError):
                    client.send(b"hurry\n")
                with suppress(OSError):
                    while answer := client.recv(100):
                        heard[client].add(answer.partition(b" ")[0].decode())

        def look() -> None:
            # Each list is a look at all of the kernel's flows, which may be ahead of the events.
            list(ask_rows(daemon.socket, "flows", FlowRow))

        with repeating(hurry), repeating(look):
            for _ in range(5):
                forgotten = counters(daemon)["flows-forgotten"]
                delete(daemon, "-p", "udp", "-f", f"ipv{family}", "-d", VIPS[family])
                eventually(partial(has_forgotten, daemon, forgotten + FEW // 2))
        assert heard == {client: {name} for client, name in before.items()}


@FAMILIES
def test_f139_connections_to_an_endpoint_itself_go_on_too(daemon: Daemon, family: Family) -> None:
    node, to = daemon.cluster.node, (POD_END[family].strip("[]"), 5002)
    (daemon.folder / "rules").write_text(TABLE % "meta mark != 0 counter drop")
    node.call("nft", "-f", str(daemon.folder / "rules"))
    with Clients(daemon.cluster, family, 20, socket.SOCK_STREAM, to) as clients:
        for _ in range(3):
            flush(daemon, "-f", f"ipv{family}")
            assert silent(clients, 10) == 0, "and no packet has a mark of ours"
