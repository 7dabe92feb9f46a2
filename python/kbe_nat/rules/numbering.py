"""Numbers for backends: stable while a backend is served, and not given to another one too soon."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from kbe_nat.errors import RulesError

Address = tuple[str, int]
"""Address and port."""


class Numbering:
    """Numbers from 1 to `largest`."""

    def __init__(self, largest: int, clock: Callable[[], float]) -> None:
        """`clock` tells seconds."""
        self.numbers: dict[Address, int] = {}
        self._uses: Counter[Address] = Counter()
        """By how many service ports each backend is used."""
        self._largest = largest
        self._clock = clock
        self._next = 1
        self._resting: deque[tuple[float, int]] = deque()
        """Numbers that were given up and when, oldest first."""

    def check(self, backends: Iterable[Address]) -> None:
        """Raises `RulesError` when there are too few numbers for these too: all are in use, or were until a
        moment ago.
        """
        count = len({own for own in backends if own not in self.numbers})
        rested = sum(when + REST_SECONDS <= self._clock() for when, _ in self._resting)
        if count > self._largest + 1 - self._next + rested:
            raise RulesError(
                f"the packet mark's bits for backends (--mark-backend) count up to {self._largest}:"
                f" {len(self.numbers)} are in use, {len(self._resting) - rested} rest, {count} more are wanted"
            )

    def arrive(self, backends: Iterable[Address]) -> dict[Address, int]:
        """A service port uses these, which `check` has let pass. Returns the numbers of those that had none."""
        given = {}
        for own in backends:
            self._uses[own] += 1
            if own not in self.numbers:
                given[own] = self.numbers[own] = self._take()
        return given

    def leave(self, backends: Iterable[Address]) -> dict[Address, int]:
        """A service port uses these no more. Returns the numbers of those that nobody uses any more."""
        gone = {}
        for own in backends:
            self._uses[own] -= 1
            if not self._uses[own]:
                del self._uses[own]
                gone[own] = self.numbers.pop(own)
                self._resting.append((self._clock(), gone[own]))
        return gone

    def _take(self) -> int:
        if self._next <= self._largest:
            self._next += 1
            return self._next - 1
        return self._resting.popleft()[1]


REST_SECONDS: Final = 2.0
"""A verdict that was on its way when its backend left has long arrived then."""
