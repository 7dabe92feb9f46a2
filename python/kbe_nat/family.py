"""The two families of addresses. Every table, rule and frontend belongs to one of them."""

from enum import IntEnum


class Family(IntEnum):
    """IP versions, by the number in a packet's first four bits."""

    IPV4 = 4
    IPV6 = 6


def family_of(text: str) -> Family:
    """The family of an address or a range in canonical text."""
    return Family.IPV6 if ":" in text else Family.IPV4
