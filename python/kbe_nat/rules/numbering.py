"""Numbers for backends: stable while a backend is served, and not given to another one too soon."""

from collections import deque
from collections.abc import Iterable

from kbe_nat.errors import RulesError

Address = tuple[str, int]
"""Address and port."""


class Numbering:
    """Numbers from 1 to `largest`."""

    def __init__(self, largest: int) -> None:
        self.numbers: dict[Address, int] = {}
        self._largest = largest
        self._next = 1
        self._resting: deque[int] = deque()
        """Numbers that were given up, oldest first: each rests until all that were never used are."""

    def added(self, backends: Iterable[Address]) -> dict[Address, int]:
        """Gives numbers to those of `backends` that have none, and returns these. Raises `RulesError` when there
        are more backends than numbers; none gets one then.
        """
        new = [own for own in dict.fromkeys(backends) if own not in self.numbers]
        if len(new) > self._largest - len(self.numbers):
            count = len(self.numbers) + len(new)
            raise RulesError(f"the packet mark's bits for backends count up to {self._largest}, not {count}")
        given = {own: self._take() for own in new}
        self.numbers |= given
        return given

    def dropped(self, backends: Iterable[Address]) -> dict[Address, int]:
        """Takes the numbers away from all but `backends`, and returns those who had them."""
        kept = set(backends)
        gone = {own: number for own, number in self.numbers.items() if own not in kept}
        for own, number in gone.items():
            del self.numbers[own]
            self._resting.append(number)
        return gone

    def _take(self) -> int:
        if self._next <= self._largest:
            self._next += 1
            return self._next - 1
        return self._resting.popleft()
