"""The maps and sets of the kernel's NAT: their names, and elements as values, in nft's words, and
as the kernel lays them out. `nat_table` says what rules do with them.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, TypeAlias

from kbe_nat._native import NftElements
from kbe_nat.family import Family
from kbe_nat.packets import NUMBERS
from kbe_nat.policy.plan import BackendAddress, FrontendKey
from kbe_nat.rules.rule import Marks
from kbe_nat.rules.standby import Standby


class NatSet(StrEnum):
    """The maps and sets of a table, by their names."""

    BACKENDS = "backends"
    """A map from the mark that holds a backend's id to its address and port."""
    STANDBY = "standby"
    """A map from a frontend to the one backend that serves it without a verdict."""
    STANDBY_SLOTS = "standby-slots"
    """The same from a frontend and a slot to one of several."""
    FRONTENDS = "frontends"
    """All frontends. Those that are in no other set have a standby whose clients are masqueraded,
    so that answers come back to this node.
    """
    STANDBY_KEEP_SOURCE = "standby-keep-source"
    """Frontends whose standby sees the client's address."""
    CHOICE_MASQUERADE = "choice-masquerade"
    """Frontends for which the kernel chooses, and whose clients are masqueraded."""
    CHOICE_CLUSTER_IP = "choice-cluster-ip"
    """Cluster IPs for which it chooses: their clients are masqueraded if they are no pods."""
    CHOICE_QUIET = "choice-quiet"
    """Protocols of whose flows, where the kernel chooses, listeners hear the beginning and the end
    alone.
    """
    HAIRPINS = "hairpins"
    """Pairs of one address: backends of these that may reach themselves."""
    REJECT_UNSERVED = "reject-unserved"
    """Frontends without a standby."""
    ADDRESSES = "addresses"
    """Addresses of Services outside of the ranges, for ports without a frontend."""
    HASH_SEED = "hash-seed"
    """The seed of the hash of clients, for the next daemon."""


SlotKey: TypeAlias = tuple[FrontendKey, int]
"""A frontend and the number of a slot."""
Key: TypeAlias = int | FrontendKey | SlotKey | str
"""A backend's id, the seed or a protocol's number, a frontend, one of its slots, or an address."""
Elements: TypeAlias = Mapping[Key, BackendAddress | None]
"""With their values; those of sets have none."""


def backend_elements(ids: Mapping[BackendAddress, int]) -> Elements:
    """Elements of the map of backends."""
    return {backend_id: backend for backend, backend_id in ids.items()}


def quiet_elements(tells_updates: bool) -> Elements:
    """Elements of the set of protocols without updates: none where all are told of."""
    return {} if tells_updates else {NUMBERS[name]: None for name in ("tcp", "udp", "sctp")}


def standby_elements(standby: Standby) -> dict[NatSet, Elements]:
    """Elements by the name of their map or set, for these decisions."""
    elements: dict[NatSet, dict[Key, BackendAddress | None]] = {
        name: {} for name in (NatSet.STANDBY, NatSet.STANDBY_SLOTS, NatSet.FRONTENDS, *KIND_SETS)
    }
    elements[NatSet.FRONTENDS] = dict.fromkeys(standby)
    for key, (backends, first_slot, keeps_source, is_chosen, is_cluster_ip) in standby.items():
        if not backends:
            elements[NatSet.REJECT_UNSERVED][key] = None
            continue
        if first_slot is None:
            [elements[NatSet.STANDBY][key]] = backends
        else:
            slots = enumerate(backends, first_slot)
            elements[NatSet.STANDBY_SLOTS].update(((key, slot), backend) for slot, backend in slots)
        if is_chosen:
            name = NatSet.CHOICE_CLUSTER_IP if is_cluster_ip else NatSet.CHOICE_MASQUERADE
            elements[name][key] = None
        elif keeps_source:
            elements[NatSet.STANDBY_KEEP_SOURCE][key] = None
    return dict(elements)


def encode(family: Family, name: NatSet, elements: Elements, marks: Marks) -> NftElements:
    """Elements of this map or set as the kernel lays them out: registers of four bytes."""
    socket_family = SOCKET_FAMILIES[family]
    # Identifiers count in steps of the lowest bit of the mark that they may have.
    step = marks.backend & -marks.backend if name is NatSet.BACKENDS else 1
    length = 16 if family == Family.IPV6 else 4
    frontend = struct.Struct(f"!{length}sB3xH2x")
    backend = struct.Struct(f"!{length}sH2x")
    # Marks, and numbers that the kernel has drawn, stand in registers in the host's byte order.
    number = struct.Struct("B" if name is NatSet.CHOICE_QUIET else "=I")
    records = bytearray()
    last: FrontendKey | None = None
    packed = b""
    for key, value in elements.items():
        if isinstance(key, int):
            records += number.pack(key * step)
        elif isinstance(key, str):
            records += inet_pton(socket_family, key) * (2 if name is NatSet.HAIRPINS else 1)
        else:
            frontend_key, slot = key if len(key) == 2 else (key, None)
            # The slots of a frontend stand side by side.
            if frontend_key is not last:
                address, protocol, port = last = frontend_key
                packed = frontend.pack(inet_pton(socket_family, address), NUMBERS[protocol], port)
            records += packed
            if slot is not None:
                records += number.pack(slot)
        if value is not None:
            records += backend.pack(inet_pton(socket_family, value[0]), value[1])
    key_lengths = {
        NatSet.BACKENDS: number.size,
        NatSet.HASH_SEED: number.size,
        NatSet.CHOICE_QUIET: number.size,
        NatSet.STANDBY_SLOTS: frontend.size + number.size,
        NatSet.HAIRPINS: 2 * length,
        NatSet.ADDRESSES: length,
    }
    value_length = backend.size if name in MAPS else 0
    return NftElements(key_lengths.get(name, frontend.size), value_length, bytes(records))


def element_text(name: NatSet, key: Key, value: BackendAddress | None, marks: Marks) -> str:
    """An element in nft's words."""
    step = marks.backend & -marks.backend if name is NatSet.BACKENDS else 1
    if name is NatSet.HAIRPINS:
        return f"{key} . {key}"
    if name is NatSet.CHOICE_QUIET:
        return str(key)
    text = f"{key * step:#x}" if isinstance(key, int) else _key_text(key)
    return f"{text} : {value[0]} . {value[1]}" if value else text


def _key_text(key: FrontendKey | SlotKey | str) -> str:
    if isinstance(key, str):
        return key
    parts = (*key[0], key[1]) if len(key) == 2 else key
    return " . ".join(map(str, parts))


SOCKET_FAMILIES: Final = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
CHOICE_SETS: Final = (NatSet.CHOICE_CLUSTER_IP, NatSet.CHOICE_MASQUERADE)
"""Sets of frontends for which the kernel always chooses. Each shares its name with a chain."""
KIND_SETS: Final = (NatSet.STANDBY_KEEP_SOURCE, NatSet.REJECT_UNSERVED, *CHOICE_SETS)
"""Sets of frontends that the kernel does not treat as most."""
FRONTEND_TYPE: Final = "type {address} . inet_proto . inet_service"
SET_TYPES: Final[Mapping[NatSet, str]] = {
    NatSet.BACKENDS: "type mark : {address} . inet_service",
    NatSet.STANDBY: f"{FRONTEND_TYPE} : {{address}} . inet_service",
    # The type of a drawn number has no name that could stand in a key.
    NatSet.STANDBY_SLOTS: "typeof {ip} daddr . meta l4proto . th dport . numgen random mod 2"
    " : {ip} daddr . th dport",
    **dict.fromkeys((NatSet.FRONTENDS, *KIND_SETS), FRONTEND_TYPE),
    NatSet.CHOICE_QUIET: "type inet_proto",
    NatSet.HAIRPINS: "type {address} . {address}",
    NatSet.ADDRESSES: "type {address}",
    NatSet.HASH_SEED: "type mark",
}
"""Of keys, and of a map's values; `{address}` stands for the type of the family's addresses, `{ip}`
for its name.
"""
MAPS: Final = (NatSet.BACKENDS, NatSet.STANDBY, NatSet.STANDBY_SLOTS)
