"""An engine with a clock: what a program needs around it to serve packets one by one.

The engine has no clock, forgets flows only when it is asked to, and says which packets wait without
keeping them. A `Session` does all three, so that a callback of a packet queue is a few lines.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, SupportsBytes, cast

from kbe_nat import words
from kbe_nat._native import EXPIRY_BUDGET, Engine, Verdict, reject
from kbe_nat.field_docs import documented

if TYPE_CHECKING:
    import sys

    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
    else:
        from typing_extensions import Buffer

EXPIRY_INTERVAL: Final = 10_000_000
"""Nanoseconds between two looks at flows that may have timed out."""

MAX_RELEASED: Final = 4096
"""Outcomes of held fragments that wait for `Session.released`."""


@documented
@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What a program does with a packet."""

    action: words.Action
    """The verdict: "pass", "translate", "drop", "reject" or "hold"."""
    cause: words.Cause | Literal[""]
    """Why, in a word, such as "new" or "no-endpoints"; empty for a packet that had been held."""
    packet: bytes | None
    """The bytes to send on, from the IP header on; None where nothing is sent on."""
    answer: bytes | None = None
    """The packet to send back to the source of a rejected one, from the IP header on; None where
    none may be sent.
    """
    masquerade: bool = False
    """Whether the sender of `packet` still has to replace its source by an address of the node."""

    def __repr__(self) -> str:
        parts = [f"{self.action}: {self.cause}" if self.cause else self.action]
        if self.packet is not None:
            parts.append(f"{len(self.packet)} bytes")
        if self.answer is not None:
            parts.append(f"an answer of {len(self.answer)} bytes")
        if self.masquerade:
            parts.append("masquerade")
        return f"<Outcome {', '.join(parts)}>"


class Session:
    """Serves packets by an engine, one at a time; any thread may call it.

    >>> import kbe_nat
    >>> from kbe_nat.packets import Packet
    >>> engine = kbe_nat.Engine(seed=1)
    >>> engine.replace_services(
    ...     [
    ...         kbe_nat.ServicePort(
    ...             "default/web",
    ...             [kbe_nat.Frontend("10.96.0.1", 80)],
    ...             [kbe_nat.Backend("10.244.0.3", 8080)],
    ...         )
    ...     ]
    ... )
    >>> session = kbe_nat.Session(engine)
    >>> outcome = session.process(Packet("tcp", ("10.0.0.9", 4000), ("10.96.0.1", 80), "S"))
    >>> outcome.action, Packet.parse(outcome.packet).destination
    ('translate', ('10.244.0.3', 8080))
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        answer: words.Answer = "icmp",
    ) -> None:
        """`clock` gives nanoseconds and never goes back; `answer` is how packets are rejected, as
        of `kbe_nat.reject`. Raises `ArgumentError` for another answer, TypeError for arguments of
        another type.
        """
        if not isinstance(engine, Engine):
            raise TypeError(f"engine is an Engine, not {engine!r}")
        if not callable(clock):
            raise TypeError(f"clock is a function, not {clock!r}")
        reject(b"", answer)
        self.engine = engine
        self._clock = clock
        self._answer = answer
        self._held: dict[int, tuple[object, bytes]] = {}
        self._released: deque[tuple[object, Outcome]] = deque(maxlen=MAX_RELEASED)
        self._lock = threading.Lock()
        self._next_expiry = 0

    def process(
        self,
        packet: "Buffer | SupportsBytes",
        *,
        interface: int = 0,
        incomplete_checksum: bool = False,
        context: object = None,
    ) -> Outcome:
        """Decide about a packet; `interface` and `incomplete_checksum` as of `Engine.process`.
        Raises TypeError for what is no packet, and for a clock that gives no whole number.

        A fragment whose datagram is not decided yet is held: `released` gives its outcome, together
        with this `context`, after a later packet. Of outcomes that nobody asks for the newest 4,096
        are kept. Cost: that of `Engine.process`, and every 10 ms a
        look at 4,096 flows at most.
        """
        # One thread at a time: a ticket is known here before another thread sees it released.
        with self._lock:
            now = self._clock()
            if not isinstance(now, int) or now < 0:
                raise TypeError(f"clock gives nanoseconds, a whole number from 0 on, not {now!r}")
            if now >= self._next_expiry:
                self.engine.expire(now, EXPIRY_BUDGET)
                self._next_expiry = now + EXPIRY_INTERVAL
            verdict = self.engine.process(
                packet, now, interface=interface, incomplete_checksum=incomplete_checksum
            )
            if verdict.ticket is not None:
                self._held[verdict.ticket] = (context, bytes(packet))
            # Now, and not when somebody asks: fragments of a flood must not add up here.
            if self._held:
                self._release()
        return self._outcome(verdict, packet)

    def released(self) -> list[tuple[object, Outcome]]:
        """The fragments that wait no longer, each with the context that it came with."""
        with self._lock:
            self._release()
            outcomes = list(self._released)
            self._released.clear()
        return outcomes

    def _release(self) -> None:
        for ticket, action, packet in self.engine.released():
            context, original = self._held.pop(ticket, (None, b""))
            answer = reject(original, self._answer) if action == "reject" and original else None
            outcome = Outcome(cast(words.Action, action), "", packet, answer)
            self._released.append((context, outcome))

    def __repr__(self) -> str:
        return f"<Session of {self.engine!r}: {len(self._held)} fragments held>"

    def __reduce__(self) -> str:
        raise TypeError("Session cannot be pickled or copied: make another one of its engine")

    def _outcome(self, verdict: Verdict, packet: "Buffer | SupportsBytes") -> Outcome:
        answer = reject(packet, self._answer) if verdict.action == "reject" else None
        return Outcome(verdict.action, verdict.cause, verdict.packet, answer, verdict.masquerade)
