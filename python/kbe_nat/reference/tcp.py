"""TCP connections for the reference NAT: nf_conntrack's states, and enough of both windows to tell
an exact RST from a guessed one.

States: FIN_WAIT after the first FIN, CLOSE_WAIT when it is acknowledged, LAST_ACK after the second
FIN, TIME_WAIT when that is acknowledged. A segment that does not fit changes and refreshes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kbe_nat.reference.packet import ACK, FIN, RST, SYN


@dataclass(frozen=True, slots=True)
class Segment:
    """The fields of a segment that connection tracking needs."""

    flags: int
    seq: int
    ack: int
    window: int
    payload: int
    scale: int | None
    """The window scale option of a SYN (RFC 7323)."""

    @classmethod
    def parse(cls, transport: bytes) -> "Segment":
        """Read header and payload, whose lengths were checked."""
        offset, flags = (transport[12] >> 4) * 4, transport[13]
        return cls(
            flags,
            int.from_bytes(transport[4:8]),
            int.from_bytes(transport[8:12]),
            int.from_bytes(transport[14:16]),
            len(transport) - offset,
            _window_scale(transport[20:offset]) if flags & SYN else None,
        )

    @property
    def end(self) -> int:
        """Sequence number behind it; SYN and FIN take one each."""
        return (
            self.seq + self.payload + bool(self.flags & SYN) + bool(self.flags & FIN) & 0xFFFFFFFF
        )


@dataclass(slots=True)
class Side:
    """The segments of one side. Sequence numbers compare modulo 2^32 (RFC 9293, 3.4)."""

    end: int | None = None
    """Behind the highest sequence number sent; None before anything was."""
    ack: int | None = None
    """Highest acknowledgement sent."""
    window: int = 0
    """Largest window announced, scaled."""
    scale: int = 0
    has_offered_scale: bool = False
    is_liberal: bool = False
    """Windows are not checked, because the handshake was not seen."""
    has_sent_syn_again: bool = False
    """It sent a SYN on a connection that was open."""
    has_unacknowledged_data: bool = False
    has_zero_window: bool = False
    """The connection's last acknowledgement came from this side and announced no window."""
    retransmissions: int = 0

    def update(self, segment: Segment, *, may_scale: bool) -> None:
        """Take a segment of this side into account."""
        if segment.flags & SYN:
            is_scaled = may_scale or not segment.flags & ACK
            self.scale = segment.scale if segment.scale is not None and is_scaled else 0
            self.has_offered_scale = segment.scale is not None
        if self.end is None or is_before(self.end, segment.end):
            self.end = segment.end
            self.has_unacknowledged_data = segment.payload > 0
            self.retransmissions = 0
        elif segment.payload:
            self.retransmissions = min(self.retransmissions + 1, 255)
        # The window of a SYN is never scaled (RFC 7323, 2.2).
        scale = 0 if segment.flags & SYN else self.scale
        self.window = max(self.window, segment.window << scale, 1)
        if segment.flags & ACK and (self.ack is None or is_before(self.ack, segment.ack)):
            self.ack = segment.ack


@dataclass(slots=True)
class Connection:
    """Both sides of a connection: the client's and the backend's."""

    sides: list[Side] = field(default_factory=lambda: [Side(), Side()])

    def open(self, segment: Segment) -> str:
        """The state of a connection whose first segment this is."""
        self.sides[0].update(segment, may_scale=False)
        if is_opening(segment.flags):
            return "tcp_syn_sent"
        self.sides[0].has_zero_window = segment.window == 0
        for side in self.sides:
            side.is_liberal = True
        return "tcp_established"

    def advance(self, state: str, is_original: bool, segment: Segment) -> str:
        """The state after a segment; or "invalid" when it does not fit, "unmoved" for a SYN on an
        open connection, which the other side will challenge (RFC 5961, 4), or for one that is sent
        again, and "reopened" for one on a connection that is over.
        """
        flags, client = segment.flags, self.sides[0]
        if not is_possible(flags):
            return "invalid"
        if flags & RST:
            return self._reset(state, self.sides[is_original], segment.seq)
        if flags & SYN and not flags & ACK and is_original:
            if state in ("tcp_time_wait", "tcp_close"):
                return "reopened"
            if state in ("tcp_established", "tcp_fin_wait", "tcp_close_wait", "tcp_last_ack"):
                client.has_sent_syn_again = True
                return "unmoved"
        is_half_open = state in ("tcp_syn_sent", "tcp_syn_recv", "tcp_syn_sent2")
        is_answer = flags & SYN and flags & ACK and not is_original
        if is_answer and client.has_sent_syn_again and not is_half_open:
            # The backend has begun a new connection, whose windows are not known.
            self.sides = [Side(end=segment.ack, is_liberal=True), Side(is_liberal=True)]
            self._update(segment, is_original=False)
            return "tcp_syn_recv"
        if flags & ACK and not flags & SYN and state == "tcp_syn_sent":
            return "invalid"
        if not flags & SYN and not self._is_in_window(segment, is_original):
            return "invalid"
        self._update(segment, is_original)
        if state == "tcp_syn_sent" and is_original and is_opening(flags):
            return "unmoved"
        return _next(state, is_original, flags)

    def timeout(self, state: str, timeouts: Mapping[str, int], *, is_replied: bool) -> int:
        """How long it lives in a state, given what is outstanding."""
        if any(side.retransmissions >= 3 for side in self.sides):
            return min(timeouts[state], timeouts["tcp_max_retrans"])
        is_one_sided = state == "tcp_established" and not is_replied
        if is_one_sided or any(side.has_unacknowledged_data for side in self.sides):
            return min(timeouts[state], timeouts["tcp_unacknowledged"])
        if any(side.has_zero_window for side in self.sides):
            return min(timeouts[state], timeouts["tcp_max_retrans"])
        return timeouts[state]

    def _reset(self, state: str, other: Side, seq: int) -> str:
        """A RST closes an open connection only with exactly the sequence number that the other side
        expects next (RFC 5961, 3.2); a half-open one also with a later one.
        """
        if other.ack is None or seq == other.ack:
            return "tcp_close"
        is_half_open = state in ("tcp_syn_sent", "tcp_syn_recv", "tcp_syn_sent2")
        return "tcp_close" if is_half_open and not is_before(seq, other.ack) else "invalid"

    def _is_in_window(self, segment: Segment, is_original: bool) -> bool:
        sender, receiver = self.sides[not is_original], self.sides[is_original]
        if sender.is_liberal or sender.end is None or receiver.end is None:
            return True
        acked = receiver.ack or 0
        is_acceptable = not is_before(acked + receiver.window, segment.seq) and not is_before(
            segment.end, sender.end - receiver.window
        )
        reach = max(sender.window, MAX_ACK_WINDOW)
        is_plausible = not segment.flags & ACK or (
            not is_before(receiver.end, segment.ack)
            and not is_before(segment.ack, receiver.end - reach)
        )
        return is_acceptable and is_plausible

    def _update(self, segment: Segment, is_original: bool) -> None:
        sender, receiver = self.sides[not is_original], self.sides[is_original]
        sender.update(segment, may_scale=is_original or self.sides[0].has_offered_scale)
        if segment.flags & (FIN | SYN | RST | ACK) == ACK:
            sender.has_zero_window, receiver.has_zero_window = segment.window == 0, False
        if segment.flags & SYN and not is_original and not sender.has_offered_scale:
            # Window scaling is in use only if both have offered it (RFC 7323, 2.2).
            receiver.scale = 0
        if segment.flags & ACK and not is_before(segment.ack, receiver.end or 0):
            receiver.has_unacknowledged_data = False
            receiver.retransmissions = 0


def is_possible(flags: int) -> bool:
    """Whether a sane sender sets these flags together: any of them, and SYN alone or with ACK."""
    control = flags & (FIN | SYN | RST | ACK)
    return bool(control) and (not control & SYN or not control & (FIN | RST))


def is_opening(flags: int) -> bool:
    """Whether a segment opens a connection."""
    return flags & (FIN | SYN | RST | ACK) == SYN


def is_before(a: int, b: int) -> bool:
    """Whether `a` comes before `b` modulo 2^32."""
    return (a - b) & 0x80000000 != 0


def _next(state: str, is_original: bool, flags: int) -> str:
    """The state after a segment that fits and is no RST."""
    if flags & SYN:
        if state == "tcp_syn_sent" and not is_original:
            return "tcp_syn_recv" if flags & ACK else "tcp_syn_sent2"
        return "tcp_syn_recv" if state == "tcp_syn_sent2" and flags & ACK else state
    if flags & FIN:
        return AFTER_FIN.get(state, state)
    if state == "tcp_syn_recv":
        return "tcp_established" if is_original else state
    return AFTER_ACK.get(state, state)


def _window_scale(options: bytes) -> int | None:
    """The window scale among options, at most 14 (RFC 7323, 2.3)."""
    while options:
        kind = options[0]
        if kind == 3 and len(options) >= 3 and options[1] == 3:
            return min(options[2], 14)
        if kind == 0 or (kind != 1 and len(options) < 2):
            return None
        length = 1 if kind == 1 else max(options[1], 2)
        if length > len(options):
            return None
        options = options[length:]
    return None


AFTER_FIN: Final = {
    "tcp_syn_recv": "tcp_fin_wait",
    "tcp_established": "tcp_fin_wait",
    "tcp_fin_wait": "tcp_last_ack",
    "tcp_close_wait": "tcp_last_ack",
}
AFTER_ACK: Final = {"tcp_fin_wait": "tcp_close_wait", "tcp_last_ack": "tcp_time_wait"}
MAX_ACK_WINDOW: Final = 66_000
"""How far an acknowledgement may lie behind what was sent, at least (the kernel's MAXACKWINCONST).
"""
