"""Ids of backends: stable while a backend is served, and not given to another one too soon.

Theory of operation. A verdict names a backend by its id, in the bits of a packet mark, and the
kernel's map leads from the id to the backend. So an id must not lead elsewhere while a verdict that
names it is on its way: one that is released rests for `REST_SECONDS` before it is free.

An id is untouched, taken, resting or free. Untouched ones are used first, in order. After those the
free ones are used in a round, so that the one which was given up longest ago comes next. Where none
is left, backends wait; `assign` serves them in the order in which they came.

`acquire` and `release` count uses, because several service ports may have one backend.
"""

from collections import Counter, deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from typing import Final

from kbe_nat.policy.plan import BackendAddress


class IdsByPort(Mapping[BackendAddress, int]):
    """The id of each backend. Most backends have one of few ports, so each port has a dictionary by
    address: 150,000 pairs of address and port would take eight megabytes beside it. Without a
    backend a port has none.

    It does by itself what `Mapping` would do by other methods: a call for each backend would make a
    third of the time that a first plan takes.
    """

    def __init__(self) -> None:
        self._ids: dict[int, dict[str, int]] = {}

    def __contains__(self, backend: object) -> bool:
        if not isinstance(backend, tuple):
            return False
        address, port = backend
        ids = self._ids.get(port)
        return ids is not None and address in ids

    def __getitem__(self, backend: BackendAddress) -> int:
        address, port = backend
        return self._ids[port][address]

    def __iter__(self) -> Iterator[BackendAddress]:
        return ((address, port) for port, ids in self._ids.items() for address in ids)

    def __len__(self) -> int:
        return sum(map(len, self._ids.values()))

    def items(self) -> ItemsView[BackendAddress, int]:
        """Each backend with its id."""
        return _Items(self)

    def pairs(self) -> Iterator[tuple[BackendAddress, int]]:
        """As `items`, each once."""
        return (
            ((address, port), backend_id)
            for port, ids in self._ids.items()
            for address, backend_id in ids.items()
        )

    def update(self, assigned: Mapping[BackendAddress, int]) -> None:
        """These backends have these ids."""
        for (address, port), backend_id in assigned.items():
            ids = self._ids.get(port)
            if ids is None:
                ids = self._ids[port] = {}
            ids[address] = backend_id

    def pop(self, backend: BackendAddress) -> int | None:
        """Take a backend out; its id, or None when it has none."""
        address, port = backend
        ids = self._ids.get(port)
        if ids is None:
            return None
        backend_id = ids.pop(address, None)
        if not ids:
            del self._ids[port]
        return backend_id


class _Items(ItemsView[BackendAddress, int]):
    _mapping: IdsByPort

    def __iter__(self) -> Iterator[tuple[BackendAddress, int]]:
        return self._mapping.pairs()


class BackendIds:
    """Ids from 1 to `largest`. When they run out, backends wait for one."""

    def __init__(self, largest: int, clock: Callable[[], float]) -> None:
        """`clock` tells seconds."""
        self.ids = IdsByPort()
        self._waiting: dict[BackendAddress, None] = {}
        """Backends that have none, in the order in which they came."""
        self._shared: Counter[BackendAddress] = Counter()
        """By how many service ports beside the first each backend is used; without zeros."""
        self._largest = largest
        self._clock = clock
        self._states = bytearray(1)
        """By id, whether it is taken or rests; as long as there were ids at once or in a row. A
        byte each, so that they need no memory worth naming however many backends come and go.
        """
        self._next = 1
        """Where the search for a free one begins."""
        self._resting: deque[tuple[float, int]] = deque()
        """Ids that were released and when, oldest first; without those that have rested."""

    @property
    def waiting(self) -> int:
        """Backends without an id."""
        return len(self._waiting)

    @property
    def shortage(self) -> str | None:
        """Why backends wait; None when none does, or only until ids have rested."""
        if not self._waiting or self._resting:
            return None
        return (
            f"the packet mark's bits for backends (--mark-backend) count up to {self._largest}:"
            f" {len(self.ids)} are in use, {len(self._waiting)} more are wanted"
        )

    def acquire(self, backends: Iterable[BackendAddress]) -> dict[BackendAddress, int]:
        """A service port uses these. Returns the ids of backends that had none, as far as there are
        any; the others wait. Cost: linear in these and in the ids that have rested since.
        """
        ids, waiting = self.ids, self._waiting
        for backend in backends:
            if backend in ids or backend in waiting:
                self._shared[backend] += 1
            else:
                waiting[backend] = None
        return self.assign()

    def assign(self) -> dict[BackendAddress, int]:
        """Ids for backends that wait, as far as there are any by now."""
        self._recycle()
        # Ids are given out in the order of waiting, so that no backend starves while ids come and
        # go. `zip` asks for a backend first: no id is taken for none.
        assigned = dict(zip(self._waiting, self._take(), strict=False))
        self.ids.update(assigned)
        if len(assigned) == len(self._waiting):
            self._waiting.clear()
        for backend in assigned if self._waiting else ():
            del self._waiting[backend]
        return assigned

    def release(self, backends: Iterable[BackendAddress]) -> dict[BackendAddress, int]:
        """A service port uses these no more. Returns the ids of backends that no port uses now."""
        released = {}
        for backend in backends:
            if backend in self._shared:
                self._shared[backend] -= 1
                if not self._shared[backend]:
                    del self._shared[backend]
                continue
            # It may leave before it has got an id: it must not get one later.
            self._waiting.pop(backend, None)
            backend_id = self.ids.pop(backend)
            if backend_id is not None:
                released[backend] = backend_id
        if released:
            now = self._clock()
            self._resting += ((now, backend_id) for backend_id in released.values())
        return released

    def uses(self) -> list[BackendAddress]:
        """Every backend, as often as it is used. Cost: linear in all."""
        return [*self.ids, *self._waiting, *self._shared.elements()]

    def _recycle(self) -> None:
        if self._resting:
            rested = self._clock() - REST_SECONDS
            while self._resting and self._resting[0][0] <= rested:
                self._states[self._resting.popleft()[1]] = FREE

    def _take(self) -> Iterator[int]:
        """Untouched ids; when there are no more, the free ones in a round."""
        for backend_id in range(len(self._states), self._largest + 1):
            self._states.append(TAKEN)
            yield backend_id
        while True:
            # `find` searches in C, a byte per id. It goes on where it ended, so each id rests as
            # long as it can.
            backend_id = self._states.find(FREE, self._next)
            if backend_id < 0:
                backend_id = self._states.find(FREE, 1, self._next)
            if backend_id < 0:
                return
            self._states[backend_id] = TAKEN
            self._next = backend_id + 1
            yield backend_id


REST_SECONDS: Final = 2.0
"""A verdict that was on its way when its backend left has long arrived then."""
FREE: Final = 0
TAKEN: Final = 1
