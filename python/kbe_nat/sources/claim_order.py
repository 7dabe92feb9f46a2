"""Services in the order of their claims: of two that claim one frontend the first one has it."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import TypeAlias

from kbe_nat.model import Service, ServiceKey
from kbe_nat.sources.objects import Origin

Seniority: TypeAlias = tuple[str, Origin, int, ServiceKey]
"""When the Service was created, its origin, its place there, and its key: no two are equal."""


class ClaimOrder:
    """A sorted list of Services that changes in a few places at a time."""

    def __init__(self) -> None:
        self._seniorities: dict[ServiceKey, Seniority] = {}
        self._sorted: list[Seniority] = []
        self._services: list[Service] = []
        """Side by side with `_sorted`."""
        self._snapshot: tuple[Service, ...] = ()

    def get(self, key: ServiceKey) -> tuple[Seniority, Service] | None:
        """The Service of this key, and what orders its claims."""
        seniority = self._seniorities.get(key)
        if seniority is None:
            return None
        return seniority, self._services[bisect_left(self._sorted, seniority)]

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them; the same tuple as long as nothing changes."""
        return self._snapshot

    def apply(
        self, changes: Mapping[ServiceKey, tuple[Seniority, Service] | None]
    ) -> set[ServiceKey]:
        """Put these Services in, or take them away (None). Returns the Services among all whose
        claims may come before or after others than before. Cost: a search for each, and a copy of
        the list of references; a comparison of the whole order when any Service moves in it.
        """
        moving = {
            key
            for key, entry in changes.items()
            if entry and key in self._seniorities and self._seniorities[key] != entry[0]
        }
        before = [seniority[3] for seniority in self._sorted] if moving else []
        for key, entry in changes.items():
            self._change(key, entry)
        if changes:
            self._snapshot = tuple(self._services)
        return self._differences(before) if moving else set()

    def _change(self, key: ServiceKey, entry: tuple[Seniority, Service] | None) -> None:
        seniority = self._seniorities.get(key)
        if seniority is not None:
            place = bisect_left(self._sorted, seniority)
            if entry and entry[0] == seniority:
                self._services[place] = entry[1]
                return
            # One that is created again is younger: it loses its place, and with it its claims.
            del self._sorted[place], self._services[place], self._seniorities[key]
        if entry:
            place = bisect_left(self._sorted, entry[0])
            self._sorted.insert(place, entry[0])
            self._services.insert(place, entry[1])
            self._seniorities[key] = entry[0]

    def _differences(self, before: list[ServiceKey]) -> set[ServiceKey]:
        """The Services that stand in another order than before. A line that is put in at the head
        of a file gives every later Service another place there, yet changes no order.
        """
        old = [key for key in before if key in self._seniorities]
        present = set(old)
        new = [seniority[3] for seniority in self._sorted if seniority[3] in present]
        # Both lists have the same keys. Without those at places where the lists differ, they are
        # equal: so all claims between other Services are as they were.
        pairs = zip(old, new, strict=True)
        return {key for pair in pairs if pair[0] != pair[1] for key in pair}
