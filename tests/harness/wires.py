"""Frames by hand: what is put on a namespace's wire, and what arrives there."""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from harness import traffic
from harness.waiting import eventually
from kbe_nat.playground.namespaces import Namespace, inside

ETH_P_IP = 0x0800


def wire(namespace: Namespace) -> socket.socket:
    def open_link() -> socket.socket:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        link.bind(("eth0", ETH_P_IP))
        link.setblocking(False)
        return link

    return inside(namespace.path, open_link)


def taken(link: socket.socket) -> Iterator[bytes]:
    """IP packets that have arrived, without padding."""
    while True:
        try:
            content, (_, _, kind, *_) = link.recvfrom(65_536)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING:
            yield content[14 : 14 + int.from_bytes(content[16:18])]


def mac(namespace: Namespace) -> bytes:
    [device] = json.loads(namespace.call("ip", "-json", "link", "show", "eth0"))
    return bytes.fromhex(device["address"].replace(":", ""))


def sent_in_order(link: socket.socket, frames: Iterable[bytes]) -> None:
    """Sends frames so that the far end's stack has them in this order.

    A veth device queues a frame on the CPU that sends it: frames of two CPUs may overtake each
    other.
    """
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for frame in frames:
            link.send(frame)
    finally:
        os.sched_setaffinity(0, cpus)


def overheard(
    link: socket.socket,
    head: bytes,
    source: str,
    node: str,
    arrivals: Callable[[], Iterable[bytes]],
) -> list[bytes]:
    """Asks the node for an ICMP echo until it answers, and returns the other packets of `arrivals`.

    By then the node's stack has taken in everything that was sent on this wire before. `head` is
    the frame's.
    """
    arrived: list[bytes] = []
    numbers = count(1)

    def is_answered() -> bool:
        number = next(numbers)
        asking = traffic.ip(source, node, traffic.ICMP, traffic.echo(8, number, MARKER))
        sent_in_order(link, [head + asking])
        arrived.extend(arrivals())
        return any(
            packet[9] == traffic.ICMP and packet[28:].startswith(MARKER) for packet in arrived
        )

    eventually(is_answered)
    return [packet for packet in arrived if not packet[28:].startswith(MARKER)]


MARKER = b"everything before this has come in"
