"""Programs for the `netfilterqueue` package, on the package and on ours: each does the same. The
programs are those of the package's own examples and tests, made anew.
"""

import itertools
import select
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from kbe_nat import packets
from kbe_nat.compat import netfilterqueue as ours
from kbe_nat.playground.namespaces import Namespace, inside

QUEUE, PORT = 5, 7777
NUMBERS = itertools.count()


@pytest.fixture(params=["package", "ours"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return ours if request.param == "ours" else pytest.importorskip("netfilterqueue")


class Host:
    """A namespace with a queue on datagrams to a port of its loopback device, and both ends."""

    def __init__(self, namespace: Namespace, module: ModuleType, family: int) -> None:
        self.namespace, self.module, self.family = namespace, module, family
        self.address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.receiver, self.sender = (self.inside(self._socket) for _ in range(2))
        self.receiver.bind((self.address, PORT))
        self.receiver.settimeout(10)
        self.queue: Any = None

    def rule(self, chain: str, *match: str) -> None:
        tables = "ip6tables" if self.family == socket.AF_INET6 else "iptables"
        wanted = ("-p", "udp", "--dport", str(PORT), *match)
        target = ("-j", "NFQUEUE", "--queue-num", str(QUEUE))
        self.namespace.call(tables, "-t", "mangle", "-A", chain, *wanted, *target)

    def bind(self, callback: Callable[[Any], object], **options: object) -> Any:
        def bound() -> Any:
            queue = self.module.NetfilterQueue()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                queue.bind(QUEUE, callback, **options)
            return queue

        self.queue = self.inside(bound)
        return self.queue

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.sender.sendto(payload, (self.address, PORT))

    def serve(self, count: int, seen: list[Any]) -> None:
        """Serve until the callback has seen so many packets."""
        deadline = time.monotonic() + 10
        while len(seen) < count and time.monotonic() < deadline:
            select.select([self.queue.get_fd()], [], [], 0.2)
            self.queue.run(block=False)
        assert len(seen) == count

    def receive(self, count: int = 1) -> list[bytes]:
        return [self.receiver.recv(65_535) for _ in range(count)]

    def inside(self, make: Callable[[], Any]) -> Any:
        return inside(self.namespace.path, make)

    def _socket(self) -> socket.socket:
        return socket.socket(self.family, socket.SOCK_DGRAM)

    def close(self) -> None:
        if self.queue is not None:
            self.queue.unbind()
        self.receiver.close()
        self.sender.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def host(request: pytest.FixtureRequest, module: ModuleType) -> Iterator[Host]:
    with Namespace(f"kbe-compat{next(NUMBERS)}") as namespace:
        result = Host(namespace, module, request.param)
        yield result
        result.close()


def test_packets_are_printed_and_accepted(host: Host) -> None:
    host.rule("OUTPUT")
    seen: list[Any] = []

    def print_and_accept(packet: Any) -> None:
        text = str(packet)
        hook = (packet.hook, packet.hw_protocol, packet.get_mark(), packet.indev)
        seen.append((text, hook, packet.get_payload_len(), packet.get_timestamp()))
        packet.accept()

    host.bind(print_and_accept)
    host.send(b"one", b"two")
    host.serve(2, seen)
    assert host.receive(2) == [b"one", b"two"]
    size = 20 + 8 + 3 if host.family == socket.AF_INET else 40 + 8 + 3
    ether_type = 0x0800 if host.family == socket.AF_INET else 0x86DD
    assert seen[0][1:] == ((3, ether_type, 0, 0), size, 0.0)
    if host.family == socket.AF_INET or host.module is ours:
        # The package takes IPv6 for IPv4 here.
        assert seen[0][0] == f"UDP packet, {size} bytes"


def test_payloads_and_marks_are_set(host: Host) -> None:
    host.rule("OUTPUT", "-m", "mark", "--mark", "0")
    seen: list[int] = []

    def rewrite(packet: Any) -> None:
        seen.append(packet.id)
        fields = packets.Packet.parse(packet.get_payload())
        packet.set_payload(bytes(replace(fields, payload=b"other")))
        assert packet.get_payload()[-5:] == b"other"
        for wrong in (-1, 1 << 32):
            with pytest.raises(OverflowError):
                packet.set_mark(wrong)
        for other in (5, "text"):
            with pytest.raises(TypeError):
                packet.set_payload(other)
        packet.set_mark(9)
        assert (packet.mark, packet.get_mark()) == (0, 9)
        packet.repeat()

    host.bind(rewrite)
    host.send(b"old")
    host.serve(1, seen)
    # Through the hook once more, and past the rule by the mark.
    assert host.receive() == [b"other"]
    assert len(seen) == 1


def test_packets_are_dropped_reordered_and_decided_once(host: Host) -> None:
    host.rule("OUTPUT")
    kept: list[Any] = []

    def keep(packet: Any) -> None:
        packet.retain()
        kept.append(packet)

    host.bind(keep)
    host.send(b"1", b"2", b"3")
    host.serve(3, kept)
    assert [packet.get_payload()[-1:] for packet in kept] == [b"1", b"2", b"3"]
    kept[1].drop()
    kept[2].accept()
    kept[0].accept()
    assert host.receive(2) == [b"3", b"1"]
    with pytest.raises(RuntimeError, match=r"[Vv]erdict"):
        kept[0].accept()


def test_a_payload_is_gone_behind_the_callback(host: Host) -> None:
    host.rule("OUTPUT")
    seen: list[Any] = []
    host.bind(seen.append)
    host.send(b"x")
    host.serve(1, seen)
    with pytest.raises(RuntimeError):
        seen[0].get_payload()
    seen[0].accept()
    assert host.receive() == [b"x"]


def test_metadata_alone_and_part_of_a_packet(host: Host) -> None:
    host.rule("INPUT")
    seen: list[Any] = []

    def accept(packet: Any) -> None:
        seen.append((packet.hook, packet.indev))
        with pytest.raises(RuntimeError):
            packet.get_payload()
        packet.accept()

    host.bind(accept, mode=host.module.COPY_META)
    host.send(b"x")
    host.serve(1, seen)
    assert seen == [(1, 1)]
    host.queue.unbind()
    parts: list[bytes] = []

    def look(packet: Any) -> None:
        parts.append(packet.get_payload())
        packet.accept()

    host.bind(look, range=20)
    host.send(b"y")
    host.serve(1, parts)
    assert [len(part) for part in parts] == [20]
    assert host.receive(2) == [b"x", b"y"]


def test_what_a_callback_raises_comes_out_and_the_next_packets_wait(host: Host) -> None:
    host.rule("OUTPUT")
    seen: list[bytes] = []

    def fail_first(packet: Any) -> None:
        seen.append(packet.get_payload()[-1:])
        packet.accept()
        if len(seen) == 1:
            raise LookupError("on purpose")

    host.bind(fail_first)
    host.send(b"1", b"2")
    with pytest.raises(LookupError, match="on purpose"):
        host.serve(1, [])
    host.serve(2, seen)
    assert host.receive(2) == [b"1", b"2"]


def test_a_socket_of_the_callers(host: Host) -> None:
    host.rule("OUTPUT")
    seen: list[Any] = []

    def accept(packet: Any) -> None:
        seen.append(packet.id)
        packet.accept()

    queue = host.bind(accept)
    view = socket.fromfd(queue.get_fd(), socket.AF_NETLINK, socket.SOCK_RAW)
    view.setblocking(False)
    host.send(b"1", b"2")
    queue.run_socket(view)
    view.close()
    assert len(seen) == 2
    assert host.receive(2) == [b"1", b"2"]


def test_errors_are_those_of_the_package(host: Host) -> None:
    queue = host.bind(print)
    with pytest.raises(RuntimeError, match="already"):
        queue.bind(QUEUE, print)
    with pytest.raises(OSError, match=str(QUEUE)):
        host.inside(lambda: host.module.NetfilterQueue().bind(QUEUE, print))
    queue.unbind()
    queue.unbind()


def test_long_packets_come_whole_to_ours_alone(host: Host) -> None:
    host.rule("OUTPUT")
    seen: list[tuple[int, int]] = []

    def accept(packet: Any) -> None:
        seen.append((len(packet.get_payload()), packet.get_payload_len()))
        packet.accept()

    host.bind(accept)
    host.send(bytes(60_000))
    host.serve(1, seen)
    headers = 28 if host.family == socket.AF_INET else 48
    whole = 60_000 + headers
    if host.module is ours:
        assert seen == [(whole, whole)]
    else:
        assert seen[0][0] < whole
    assert host.receive() == [bytes(60_000)]


def test_super_packets_come_in_one_piece(module: ModuleType) -> None:
    if module is not ours:
        pytest.skip("the package has no such option")
    with Namespace(f"kbe-compat{next(NUMBERS)}") as namespace:
        host = Host(namespace, module, socket.AF_INET)
        lengths: list[int] = []

        def accept(packet: Any) -> None:
            lengths.append(packet.get_payload_len())
            packet.accept()

        host.bind(accept, gso=True)
        host.rule("OUTPUT")
        # Segments of 1,000 bytes (UDP_SEGMENT, 103), sent in one call.
        host.sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        host.send(bytes(10_000))
        host.serve(1, lengths)
        assert lengths == [10_028]
        assert [len(part) for part in host.receive(1)] in ([1000], [10_000])
        host.close()
