"""The slots of a standby: how many a frontend has, by what the kernel draws one of them, and how
they are shared out over backends.

Theory of operation. The kernel cannot choose by weight from a list, but it can draw a number below
N, or hash a client's address to one, and look that number up in a map. So a frontend has N slots
with a backend in each.

- N is a constant of a rule, so each class of frontends (`SlotClass`) takes a rule. All classes
  share one map, in which each has numbers of its own: a frontend that is not in a class misses the
  rule of this class, and comes to the next one. There are few classes whatever Services ask for.
- Shares are by the method of largest remainders (Hamilton's): a backend of weight w of W gets
  N * w / W slots, rounded down, and those with the largest remainders get one of the rest. It is
  exact where N * w / W are whole numbers.
- Of equal remainders the smallest share goes first, so that shares follow from the weights alone.
  Of equal shares those go first whose backend had such a slot before, and then those from a place
  on that is a hash of the frontend: frontends with more backends than slots use different ones.
- Frontends for which the kernel always draws have exact classes, whose slots are the sum of the
  weights: none is rounded.
- A backend keeps its slots, up to its share: only slots move whose backend has too many. A client
  that is hashed to a slot moves with it. So frontends whose clients the kernel always hashes have
  one number of slots whatever their backends: another number would move most clients.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from math import gcd
from typing import Final, NamedTuple
from zlib import crc32

from kbe_nat.policy.plan import BackendAddress, FrontendKey


class SlotClass(NamedTuple):
    """Frontends with the same number of slots, drawn in the same way."""

    size: int
    is_by_source: bool
    """The slot is a hash of the client's address; others are drawn at random."""
    first: int
    """The number of the first slot in the map."""


class SlotClasses:
    """The classes of a node, whose frontends have `slots` slots unless their Service asks."""

    def __init__(self, slots: int, *, is_able: bool = True) -> None:
        """With 1 slot, frontends have one standby. `is_able` says whether the kernel can draw;
        where it cannot, no frontend has more.
        """
        sizes = [slots * factor for factor in FACTORS if is_able]
        kinds = [(size, by_source) for size in sizes if size > 1 for by_source in (False, True)]
        self.all = tuple(
            SlotClass(size, by_source, (number + 1) * STRIDE)
            for number, (size, by_source) in enumerate(kinds)
        )
        self._slots = slots
        self.exact = tuple(
            SlotClass(size, is_by_source=False, first=(EXACT + size) * STRIDE)
            for size in range(2, MOST_EXACT + 1)
            if is_able
        )
        """Those of frontends for which the kernel always draws, one for each number of slots."""
        self.hashed = (
            SlotClass(HASHED_SLOTS, is_by_source=True, first=(EXACT + 1) * STRIDE)
            if is_able
            else None
        )
        """That of frontends for which the kernel always hashes clients."""

    def of(self, wanted: int | None, *, is_by_source: bool) -> SlotClass | None:
        """The smallest class with as many slots as are wanted, or the largest; with None that of
        frontends whose Service asks for nothing. None: one slot.
        """
        least = wanted or self._slots
        if least <= 1:
            return None
        kinds = [each for each in self.all if each.is_by_source == is_by_source]
        return next((each for each in kinds if each.size >= least), kinds[-1] if kinds else None)


def exact_size(weights: Iterable[int]) -> int:
    """The fewest slots with which shares by these weights are exact."""
    weights = list(weights)
    return sum(weights) // gcd(*weights)


def share_out(
    weights: Mapping[BackendAddress, int],
    size: int,
    frontend: FrontendKey,
    former: Sequence[BackendAddress] = (),
) -> tuple[BackendAddress, ...]:
    """The backend of each slot; `former` has those before, perhaps of another number. There is a
    backend, and none has weight 0. Cost: linear in the backends and slots, but for a sort of
    backends with different remainders.
    """
    total = sum(weights.values())
    # Many backends have few weights.
    quotas = {weight: divmod(size * weight, total) for weight in set(weights.values())}
    shares = {key: quotas[weight][0] for key, weight in weights.items()}
    rest = [key for key, weight in weights.items() if quotas[weight][1]]
    former = former[:size]
    if rest:
        # Python salts hash() in each process. By crc32 a restarted daemon shares out in the same
        # way, and clients without a conntrack entry stay where they were.
        place = crc32(repr(frontend).encode()) % len(rest)
        rest = rest[place:] + rest[:place]
        if former or len(quotas) > 1:
            held = Counter(former)

            def order(key: BackendAddress) -> tuple[int, int, bool]:
                share, remainder = quotas[weights[key]]
                return -remainder, share, held.get(key, 0) <= share

            rest.sort(key=order)
        for key in rest[: size - sum(shares.values())]:
            shares[key] += 1
    slots: list[BackendAddress | None] = []
    for key in former:
        is_kept = shares.get(key, 0) > 0
        slots.append(key if is_kept else None)
        if is_kept:
            shares[key] -= 1
    slots += [None] * (size - len(slots))
    free = chain.from_iterable(repeat(key, count) for key, count in shares.items() if count)
    return tuple(next(free) if key is None else key for key in slots)


FACTORS: Final = (1, 4, 16)
"""A Service that asks for more slots has so many times as many as others."""
EXACT: Final = 1 << 8
"""Exact classes have their numbers behind the others'."""
MOST_EXACT: Final = 32
"""Slots of the largest exact class. Each that is used takes a rule, which other ones pass by."""
HASHED_SLOTS: Final = 128
"""Four and more for each backend of a frontend whose clients the kernel always hashes: shares are
right within one of these slots, whose elements are the kernel's memory.
"""
MOST_HASHED: Final = 32
"""Backends of such a frontend."""
STRIDE: Final = 1 << 16
"""Between the first slots of two classes."""
MAX_SLOTS: Final = 256
"""Of a frontend whose Service asks for nothing."""
DEFAULT_SLOTS: Final = 8
