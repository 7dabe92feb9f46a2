"""Frames by hand: what is put on a namespace's wire, and what arrives there."""

import json
import socket
from collections.abc import Iterator

from kbe_nat.playground.namespaces import Namespace, inside

ETH_P_IP = 0x0800


def wire(own: Namespace) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        made.bind(("eth0", ETH_P_IP))
        made.setblocking(False)
        return made

    return inside(own.path, opened)


def taken(own: socket.socket) -> Iterator[bytes]:
    """IP packets that have arrived, without padding."""
    while True:
        try:
            content, (_, _, kind, *_) = own.recvfrom(65_536)
        except BlockingIOError:
            return
        if kind != socket.PACKET_OUTGOING:
            yield content[14 : 14 + int.from_bytes(content[16:18])]


def mac(own: Namespace) -> bytes:
    [device] = json.loads(own.call("ip", "-json", "link", "show", "eth0"))
    return bytes.fromhex(device["address"].replace(":", ""))
