"""The daemon's parts that need no kernel: its socket, its file of connections, what it tells
systemd, and the control step.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kbe_nat
from harness.full_engine import STATUS
from harness.waiting import eventually
from kbe_nat.cli.conntrack import line
from kbe_nat.client import ask
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.node_addresses import REREAD_SECONDS, LocalAddresses
from kbe_nat.daemon.requests import VERBS
from kbe_nat.daemon.rows import EventRow, FlowRow, StatusRow
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.daemon.systemd import Notifier, watchdog_seconds
from kbe_nat.daemon.verbs import Verbs
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.errors import ArgumentError, ControlError, NotFoundError
from kbe_nat.family import Family
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Service,
    ServicePort,
    SlicePort,
    Snapshot,
    Strategy,
)
from kbe_nat.policy.options import Options
from kbe_nat.rules.memory import Memory

SYN = bytes.fromhex(
    "45000028000100004006dda20a00020fac1ee4ffc000005000000000000000005002200032650000"
)


def snapshot(*addresses: str) -> Snapshot:
    key = ("default", "web")
    endpoints = tuple(map(Endpoint, addresses))
    part = EndpointSlice("web-1", Family.IPV4, (SlicePort("", "tcp", 9876),), endpoints)
    service = Service(*key, ("172.30.228.255",), (ServicePort("", "tcp", 80),))
    return Snapshot(1, (service,), {key: (part,)})


def controller(*addresses: str, rules: Memory | None = None) -> Controller:
    made = Controller(
        kbe_nat.Engine(seed=1),
        EveryPacket(Diversion((100, 100)), rules or Memory()),
        lambda _: Options(),
    )
    made.apply(snapshot(*addresses))
    return made


def weights(made: Controller) -> dict[str, int]:
    return {own.address: own.weight for own in made.plan.ports[0].cluster_backends}


def test_rules_follow_once_they_are_installed() -> None:
    rules = Memory()
    made = controller("10.0.0.1", rules=rules)
    assert not str(rules)
    made.install()
    assert "kbe-nat-frontends-4: 172.30.228.255,tcp:80\n" in str(rules)
    made.apply(Snapshot())
    assert "172.30" not in str(rules)
    made.remove()
    made.apply(snapshot("10.0.0.1"))
    assert not str(rules)


def test_strategies_stay_over_new_objects() -> None:
    made = controller("10.0.0.1")
    assert made.set_strategy("default/web", Strategy.ROUND_ROBIN) == 1
    made.apply(snapshot("10.0.0.1", "10.0.0.2"))
    assert made.plan.ports[0].strategy is Strategy.ROUND_ROBIN
    assert made.set_strategy("default/web", None) == 1
    made.apply(snapshot("10.0.0.1"))
    assert {port.strategy for port in made.plan.ports} == {Strategy.RANDOM}, "as the objects say"
    with pytest.raises(NotFoundError, match='services "default/other" not found'):
        made.set_strategy("default/other", Strategy.ROUND_ROBIN)


def test_a_drained_backend_gets_no_new_flows_until_the_drain_is_undone() -> None:
    made = controller("10.0.0.1", "10.0.0.2")
    made.drain("10.0.0.1:9876", None)
    assert weights(made) == {"10.0.0.1": 0, "10.0.0.2": 1}
    made.apply(snapshot("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert weights(made) == {"10.0.0.1": 0, "10.0.0.2": 1, "10.0.0.3": 1}
    made.undrain("10.0.0.1:9876")
    assert weights(made) == dict.fromkeys(("10.0.0.1", "10.0.0.2", "10.0.0.3"), 1)
    for wrong in ("10.0.0.9", "10.0.0.1:80"):
        with pytest.raises(NotFoundError, match=f'backends "{wrong}" not found'):
            made.drain(wrong, None)
        with pytest.raises(NotFoundError):
            made.undrain(wrong)
    assert made.undrain("10.0.0.2:9876") == 0, "it was not drained"
    made.drain("10.0.0.1", None)
    with pytest.raises(ArgumentError, match=r"10\.0\.0\.1:9876 is drained as all of 10\.0\.0\.1"):
        made.undrain("10.0.0.1:9876")
    made.drain("10.0.0.1:9876", None)
    assert made.undrain("10.0.0.1") == 2, "the address, and its port"
    assert set(weights(made).values()) == {1}


def test_what_is_left_of_a_drain_is_ended_at_its_deadline() -> None:
    made = controller("10.0.0.1")
    made.engine.process(SYN, time.monotonic_ns())
    made.drain("10.0.0.1", 0.0)
    assert made.remaining("10.0.0.1") == 1
    assert made.end_drains() == {"10.0.0.1": 1}
    assert (made.remaining("10.0.0.1"), made.end_drains()) == (0, {})
    made.apply(snapshot("10.0.0.1"))
    assert weights(made) == {"10.0.0.1": 0}, "it gets no new ones either"


@pytest.fixture
def verbs() -> Verbs:
    made = controller("10.0.0.1")
    made.engine.process(SYN, time.monotonic_ns())
    return Verbs(made, Subscribers(made.engine), lambda: STATUS)


@pytest.fixture
def path(verbs: Verbs, tmp_path: Path) -> Iterator[Path]:
    with ControlServer(tmp_path / "deep/control.sock", verbs):
        yield tmp_path / "deep/control.sock"


def test_every_verb_is_answered_in_plain_values(path: Path) -> None:
    asked: dict[str, dict[str, Any]] = {
        "describe": {"names": ["default/web"]},
        "names": {"kind": "services"},
        "explain": {"packet": SYN.hex()},
        "strategy": {"service": "default/web", "strategy": "rr"},
        "drain": {"backends": ["10.0.0.1"], "is_followed": False},
        "undrain": {"backends": ["10.0.0.1"]},
        "delete": {"flows": [["udp", "192.0.2.1:1", "192.0.2.2:80"]]},
        "dump": {"form": "nft", "names": "modern"},
    }
    for verb in VERBS:
        if verb not in ("events", "rules", "flush"):
            assert list(ask(path, verb, Any, **asked.get(verb, {}))), verb
    (flows,) = ask(path, "flows", list[FlowRow], backend="10.0.0.1")
    assert line(flows[0]) == (
        "tcp      6 120 SYN_SENT src=10.0.2.15 dst=172.30.228.255 sport=49152 dport=80 "
        "packets=1 bytes=40 [UNREPLIED] src=10.0.0.1 dst=10.0.2.15 sport=9876 dport=49152 "
        "packets=0 bytes=0"
    )


@pytest.mark.parametrize(
    ("verb", "parameters", "message"),
    [
        ("dance", {}, "'dance' is no verb"),
        ("describe", {"names": ["default/none"]}, 'services "default/none" not found'),
        ("endpoints", {"names": ["none"]}, 'endpoints "default/none" not found'),
        ("flows", {"names": ["none"], "namespace": "a"}, 'services "a/none" not found'),
        ("delete", {"flows": [["udp", "none:1", "192.0.2.2:80"]]}, "'none' is no IP address"),
        ("delete", {"flows": [["udp", "192.0.2.1:1", "fd00::2"]]}, "'fd00::2' has no port"),
        ("nodes", {"names": ["none"]}, 'nodes "none" not found'),
        ("services", {"selector": "a b"}, "selector: 'a b' is no requirement"),
        ("flows", {"colour": "red"}, "flows: .*colour"),
        (
            "flows",
            {"source": "nowhere"},
            "source is an IP address, or a range of them .* not 'nowhere'",
        ),
        ("strategy", {"service": "default/web", "strategy": "best"}, "'best' is no strategy"),
        ("explain", {"packet": "xyz"}, "not hexadecimal"),
        ("drain", {"backends": 7}, "7"),
        ("drain", {"backends": []}, "backends: expected array of length >= 1"),
    ],
)
def test_what_is_asked_wrong_is_told(
    path: Path, verb: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ControlError, match=message):
        list(ask(path, verb, Any, **parameters))
    assert list(ask(path, "status", StatusRow)) == [STATUS], "it is still there"


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b'{"verb": 1}\n', b"\xff\n", b"[" * 100_000 + b"\n"]
)
def test_what_is_no_request_is_told(path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(line)
        assert (
            "a request is a line of JSON" in json.loads(connection.makefile().readline())["error"]
        )


def test_events_come_as_they_happen(path: Path, verbs: Verbs) -> None:
    engine, subscribers = verbs._controller.engine, verbs._subscribers
    events = ask(path, "events", EventRow)
    seen: list[EventRow] = []
    reader = threading.Thread(
        target=lambda: seen.extend(event for event in [next(events), next(events)] if event.event)
    )
    reader.start()

    def flow_begins() -> bool:
        engine.delete_flows()
        engine.process(SYN, time.monotonic_ns())
        subscribers.publish()
        return not reader.is_alive()

    # Nothing says from when on the reader listens.
    eventually(flow_begins)
    assert {event.event for event in seen} <= {"NEW", "DESTROY"}
    assert seen


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no daemon answers here"):
        next(ask(tmp_path / "none", "status", StatusRow))


def test_a_second_server_is_refused_and_a_stale_socket_replaced(
    path: Path, verbs: Verbs, tmp_path: Path
) -> None:
    with (
        pytest.raises(ControlError, match="another daemon answers here"),
        ControlServer(path, verbs),
    ):
        pass
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    with ControlServer(stale, verbs):
        assert list(ask(stale, "status", StatusRow)) == [STATUS]
        assert stale.stat().st_mode & 0o777 == 0o600
    assert not stale.exists()


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Notifier().notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        # Abstract, as that of systemd in a container.
        listener.bind(f"\0{tmp_path}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")
        Notifier().notify("READY=1")
        listener.setblocking(False)
        assert listener.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.notify("READY=1", "STATUS=fine")
        assert listener.recv(100) == b"READY=1\nSTATUS=fine"
        for _ in range(10_000):
            notifier.notify("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1", "nor does it wait for one who does not read"
    notifier.notify("READY=1")
    notifier.close()
    assert watchdog_seconds() is None
    for microseconds, seconds in (("10000000", 10.0), ("0", None), ("many", None)):
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
        assert watchdog_seconds() == seconds
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None


def test_connections_of_removed_backends_are_ended_after_a_while() -> None:
    engine = kbe_nat.Engine(seed=1)
    made = Controller(
        engine, EveryPacket(Diversion((100, 100)), Memory()), lambda _: Options(), removed_seconds=0
    )
    made.apply(snapshot("10.0.0.1"))
    engine.process(SYN, 1)
    made.apply(snapshot("10.0.0.1", "10.0.0.2"))
    assert made.end_drains() == {}
    made.apply(snapshot("10.0.0.2"))
    assert made.end_drains() == {"10.0.0.1:9876": 1}
    assert engine.stats().flows == 0
    assert made.end_drains() == {}


def test_a_backend_that_is_back_in_time_keeps_its_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = kbe_nat.Engine(seed=1)
    made = Controller(
        engine,
        EveryPacket(Diversion((100, 100)), Memory()),
        lambda _: Options(),
        removed_seconds=60,
    )
    made.apply(snapshot("10.0.0.1"))
    engine.process(SYN, 1)
    for addresses in (("10.0.0.2",), ("10.0.0.1",)):
        made.apply(snapshot(*addresses))
        assert made.end_drains() == {}
    assert engine.stats().flows == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert made.end_drains() == {}, "nor is it remembered that it was away"
    assert engine.stats().flows == 1


def test_the_node_is_looked_at_again() -> None:
    class Node:
        """A node with these addresses."""

        addresses: tuple[str, ...] = ("192.0.2.1",)
        is_said = True

        def has_changed(self) -> bool:
            return Node.is_said

        def globals(self) -> list[str]:
            return list(self.addresses)

    now = 0.0
    addresses = LocalAddresses(Node(), lambda: now)
    datapath = EveryPacket(Diversion((100, 100)), Memory())
    made = Controller(
        kbe_nat.Engine(seed=1),
        datapath,
        lambda _: Options(node_addresses=tuple(addresses.current())),
        look=addresses.poll,
    )
    made.apply(snapshot("10.0.0.1"))
    assert not made.refresh()
    Node.addresses = ("192.0.2.1", "192.0.2.2")
    made.apply(snapshot("10.0.0.1"))
    assert len(made.plan.addresses) == 1, "objects are no reason to look at the node"
    assert made.refresh()
    assert set(made.plan.addresses) == {"192.0.2.1", "192.0.2.2"}
    Node.is_said, Node.addresses = False, ("192.0.2.3",)
    assert not made.refresh(), "nothing was heard"
    now = REREAD_SECONDS
    assert made.refresh(), "what was never heard is found nevertheless"
    assert set(made.plan.addresses) == {"192.0.2.3"}
