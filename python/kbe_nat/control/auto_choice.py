"""Which service ports the kernel is to choose for because the queue to the engine would be their
bottleneck (`--choice auto`).

Theory of operation. New connections wait in the kernel's queues for the engine. While the engine
keeps up, few wait at any moment; when more come than it can decide about, the queues fill. So the
number of packets that wait says it, and nothing is guessed about machines:

- When `BUSY_PACKETS` or more wait in each of `BUSY_LOOKS` looks in turn, the ports with most new
  connections since the first of these go to the kernel, as few as have `SHARE` of all. If the
  queues stay full, the next ones follow.
- A port goes back to the engine when its new connections stay under `CALM` of the rate at which it
  went, for `CALM_SECONDS`. The gap between both rates keeps it from going to and fro, and a port
  that goes back may come again after as many looks as the first time.

It reads no clock and no counter: both are arguments, and the answer is a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Handover:
    """A port that goes to the kernel or back, and why."""

    port: str
    to_kernel: bool
    rate: float
    """Its new connections a second when it went to the kernel, or since it became calm."""


@dataclass(slots=True)
class _Handed:
    """A port for which the kernel chooses."""

    rate: float
    """When it went there."""
    flows: int
    """Its connections at the last look."""
    last_look: float
    calm_since: float | None = None


@dataclass
class AutoChoice:
    """The ports for which the kernel chooses now."""

    _handed: dict[str, _Handed] = field(default_factory=dict)
    _busy: int = 0
    """Looks in turn that found the queues full."""
    _started: float = 0.0
    """When the first of these was."""
    _first: Mapping[str, int] = field(default_factory=dict)
    """Connections of each port at that look."""

    @property
    def ports(self) -> frozenset[str]:
        """Those for which the kernel chooses."""
        return frozenset(self._handed)

    def is_due(self, waiting: int, now: float) -> bool:
        """Whether `look` needs counters: the queues are full, were so, or ports may go back. Cost:
        that of the ports that the kernel chooses for.
        """
        is_stale = any(now - each.last_look >= CALM_LOOK for each in self._handed.values())
        return waiting >= BUSY_PACKETS or self._busy > 0 or is_stale

    def look(self, now: float, waiting: int, flows: Mapping[str, int]) -> list[Handover]:
        """What changes. `now` is in seconds of any clock, `waiting` are packets in all queues,
        `flows` the connections that each port has ever had, of ports that may go to the kernel and
        those that did. Cost: linear in these.
        """
        handovers = self._take_back(now, flows)
        if waiting < BUSY_PACKETS:
            self._busy = 0
            return handovers
        self._busy += 1
        if self._busy == 1:
            self._started, self._first = now, dict(flows)
        elif self._busy >= BUSY_LOOKS and now > self._started:
            handovers += self._hand_over(now, flows)
            # Those that are left are counted anew.
            self._busy = 0
        return handovers

    def _hand_over(self, now: float, flows: Mapping[str, int]) -> list[Handover]:
        arrivals = {
            port: count - self._first.get(port, count)
            for port, count in flows.items()
            if port not in self._handed
        }
        total, relief = sum(arrivals.values()), 0
        handovers = []
        # By name where they are equal: the same counters lead to the same choice.
        for port in sorted(arrivals, key=lambda each: (-arrivals[each], each)):
            if relief >= total * SHARE:
                break
            rate = arrivals[port] / (now - self._started)
            relief += arrivals[port]
            self._handed[port] = _Handed(rate, flows[port], now)
            handovers.append(Handover(port, to_kernel=True, rate=rate))
        return handovers

    def _take_back(self, now: float, flows: Mapping[str, int]) -> list[Handover]:
        handovers = []
        for port, handed in list(self._handed.items()):
            seconds = now - handed.last_look
            if port in flows and seconds < CALM_LOOK:
                continue
            # A port that is gone, or may not go to the kernel any more, has none.
            rate = (flows[port] - handed.flows) / seconds if port in flows else 0.0
            handed.flows, handed.last_look = flows.get(port, 0), now
            if rate >= handed.rate * CALM:
                handed.calm_since = None
            elif handed.calm_since is None:
                # It was calm for the whole time since the look before.
                handed.calm_since = now - seconds
            is_calm = handed.calm_since is not None and now - handed.calm_since >= CALM_SECONDS
            if is_calm or port not in flows:
                del self._handed[port]
                handovers.append(Handover(port, to_kernel=False, rate=rate))
        return handovers


BUSY_PACKETS: Final = 128
"""A batch or two of the engine's: it is behind when so many wait again and again."""
BUSY_LOOKS: Final = 3
SHARE: Final = 0.5
"""Of new connections, which the engine is relieved of at once."""
CALM: Final = 0.25
CALM_SECONDS: Final = 30.0
CALM_LOOK: Final = 5.0
"""Seconds between two looks at a port that the kernel chooses for."""
