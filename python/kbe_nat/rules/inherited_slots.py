"""The slots of frontends whose clients are hashed, as an earlier daemon has left them in the
kernel.

Which backend has which slot depends on all changes before: a new daemon that shared out anew would
lead clients elsewhere.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from kbe_nat.family import Family
from kbe_nat.packets import NUMBERS
from kbe_nat.policy.plan import BackendAddress, FrontendKey
from kbe_nat.rules.slots import SlotClass

InheritedSlots: TypeAlias = dict[Family, dict[FrontendKey, tuple[BackendAddress, ...]]]
"""The backend of each slot, by family and frontend."""


def read_slots(
    family: Family, contents: bytes, classes: Iterable[SlotClass]
) -> dict[FrontendKey, tuple[BackendAddress, ...]]:
    """From keys and values of the map of slots, those of frontends of these classes. Frontends of
    which a slot is missing, or that are of no protocol of ours, are left out. Cost: linear in all
    slots, and more for those of these classes.
    """
    address, element = (
        (IPv6Address, struct.Struct("!16sB3xH2x4s16sH2x"))
        if family == Family.IPV6
        else (IPv4Address, struct.Struct("!4sB3xH2x4s4sH2x"))
    )
    places = {
        each.first + number: (each, number) for each in classes for number in range(each.size)
    }
    # The number stands in the host's byte order.
    encoded = {struct.pack("=I", number): place for number, place in places.items()}
    slots_of: dict[tuple[bytes, int, int], dict[int, tuple[bytes, int]]] = {}
    sizes: dict[tuple[bytes, int, int], int] = {}
    # A table of another version may have elements of another length.
    whole = len(contents) - len(contents) % element.size
    for *frontend, number, backend, port in element.iter_unpack(contents[:whole]):
        place = encoded.get(number)
        if place is not None:
            key = tuple(frontend)
            slots_of.setdefault(key, {})[place[1]] = backend, port
            sizes[key] = place[0].size
    return {
        (str(address(key[0])), PROTOCOLS[key[1]], key[2]): tuple(
            (str(address(slots[number][0])), slots[number][1]) for number in range(sizes[key])
        )
        for key, slots in slots_of.items()
        if len(slots) == sizes[key] and key[1] in PROTOCOLS
    }


PROTOCOLS: Final = {
    number: name for name, number in NUMBERS.items() if name in ("tcp", "udp", "sctp")
}
