"""In which state a flow of the reference NAT begins, how those of SCTP go on, and how long each may
last.
"""

from ipaddress import IPv4Address
from typing import Final

from kbe_nat.reference.packet import Packet
from kbe_nat.reference.tcp import Connection, Segment


def opening(packet: Packet) -> tuple[str, Connection]:
    """State and tracking of a flow that begins with this packet."""
    connection = Connection()
    if packet.kind == "tcp":
        return connection.open(Segment.parse(packet.transport)), connection
    if packet.kind == "sctp":
        return "sctp_cookie_wait" if packet.transport[
            12:13
        ] == INIT else "sctp_established", connection
    if packet.kind == "echo-request":
        return "icmp" if isinstance(packet.ends.src, IPv4Address) else "icmpv6", connection
    return "udp" if packet.kind == "udp" else "generic", connection


def after_chunk(state: str, chunk: bytes, direction: str) -> str:
    """Where an SCTP association stands after a packet that begins with this chunk (RFC 9260, 4)."""
    if chunk in (SHUTDOWN_COMPLETE, ABORT):
        return "sctp_closed"
    return CHUNKS.get((state, chunk, direction), state)


UNANSWERED: Final = ("tcp_syn_sent", "tcp_syn_sent2")
INIT, ABORT, SHUTDOWN_COMPLETE = b"\x01", b"\x06", b"\x0e"
CHUNKS: Final = {
    ("sctp_closed", INIT, "original"): "sctp_cookie_wait",
    ("sctp_cookie_wait", b"\x0a", "original"): "sctp_cookie_echoed",
    ("sctp_cookie_echoed", b"\x0b", "reply"): "sctp_established",
    ("sctp_established", b"\x07", "original"): "sctp_shutdown_sent",
    ("sctp_established", b"\x07", "reply"): "sctp_shutdown_recd",
    **{
        (state, b"\x08", direction): "sctp_shutdown_ack_sent"
        for state in ("sctp_shutdown_sent", "sctp_shutdown_recd")
        for direction in ("original", "reply")
    },
}
TIMEOUTS: Final = {
    "tcp_syn_sent": 120.0,
    "tcp_syn_recv": 60.0,
    "tcp_established": 432_000.0,
    "tcp_fin_wait": 120.0,
    "tcp_close_wait": 60.0,
    "tcp_last_ack": 30.0,
    "tcp_time_wait": 120.0,
    "tcp_close": 10.0,
    "tcp_syn_sent2": 120.0,
    "tcp_max_retrans": 300.0,
    "tcp_unacknowledged": 300.0,
    "udp": 30.0,
    "udp_stream": 120.0,
    "icmp": 30.0,
    "icmpv6": 30.0,
    "generic": 600.0,
    "sctp_closed": 10.0,
    "sctp_cookie_wait": 3.0,
    "sctp_cookie_echoed": 3.0,
    "sctp_established": 210.0,
    "sctp_shutdown_sent": 3.0,
    "sctp_shutdown_recd": 3.0,
    "sctp_shutdown_ack_sent": 3.0,
}
"""Seconds without packets after which a flow is gone: nf_conntrack's names and values."""
