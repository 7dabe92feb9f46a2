"""Numbers for backends: stable while a backend is served, and not given to another one too soon."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

Address = tuple[str, int]
"""Address and port."""


class Numbering:
    """Numbers from 1 to `largest`. When they run out, backends wait for one."""

    def __init__(self, largest: int, clock: Callable[[], float]) -> None:
        """`clock` tells seconds."""
        self.numbers: dict[Address, int] = {}
        self._waiting: dict[Address, None] = {}
        """Backends that have none, in the order in which they came."""
        self._uses: Counter[Address] = Counter()
        """By how many service ports each backend is used."""
        self._largest = largest
        self._clock = clock
        self._taken = bytearray(1)
        """By number, whether it is in use or rests; as long as there were numbers at once or in a
        row. A byte each, so that they need no memory worth naming however many backends come and
        go.
        """
        self._next = 1
        """Where the search for one that was given up begins."""
        self._resting: deque[tuple[float, int]] = deque()
        """Numbers that were given up and when, oldest first; without those that have rested."""

    @property
    def waiting(self) -> int:
        """Backends without a number."""
        return len(self._waiting)

    @property
    def shortage(self) -> str | None:
        """Why backends wait; None when none does, or only until numbers have rested."""
        if not self._waiting or self._resting:
            return None
        return (
            f"the packet mark's bits for backends (--mark-backend) count up to {self._largest}:"
            f" {len(self.numbers)} are in use, {len(self._waiting)} more are wanted"
        )

    def arrive(self, backends: Iterable[Address]) -> dict[Address, int]:
        """A service port uses these. Returns the numbers of those that had none, as far as there
        are any; the others wait. Cost: linear in these and in the numbers that have rested since.
        """
        for own in backends:
            self._uses[own] += 1
            if own not in self.numbers:
                self._waiting[own] = None
        return self.supply()

    def supply(self) -> dict[Address, int]:
        """Numbers for those that wait, as far as there are any by now."""
        self._release()
        given = {}
        for own in self._waiting:
            number = self._take()
            if number is None:
                break
            given[own] = self.numbers[own] = number
        for own in given:
            del self._waiting[own]
        return given

    def leave(self, backends: Iterable[Address]) -> dict[Address, int]:
        """A service port uses these no more. Returns the numbers of those that nobody uses any
        more.
        """
        gone = {}
        for own in backends:
            self._uses[own] -= 1
            if not self._uses[own]:
                del self._uses[own]
                self._waiting.pop(own, None)
                if own in self.numbers:
                    gone[own] = self.numbers.pop(own)
        if gone:
            now = self._clock()
            self._resting += ((now, number) for number in gone.values())
        return gone

    def _release(self) -> None:
        """Frees what has rested."""
        if self._resting:
            rested = self._clock() - REST_SECONDS
            while self._resting and self._resting[0][0] <= rested:
                self._taken[self._resting.popleft()[1]] = FREE

    def _take(self) -> int | None:
        """A number that nobody has ever had; when there are no more, the next free one in a round."""
        number = len(self._taken)
        if number <= self._largest:
            self._taken.append(TAKEN)
            return number
        number = self._taken.find(FREE, self._next)
        if number < 0:
            number = self._taken.find(FREE, 1, self._next)
        if number < 0:
            return None
        self._taken[number] = TAKEN
        self._next = number + 1
        return number


REST_SECONDS: Final = 2.0
"""A verdict that was on its way when its backend left has long arrived then."""
FREE: Final = 0
TAKEN: Final = 1
