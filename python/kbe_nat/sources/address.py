"""Addresses and ranges as Kubernetes accepts them, in canonical text.

Go's old parser took leading zeros as decimal, and objects from that time still hold them
(CVE-2021-29923 was about readers that took them for octal). So they are read here, decimally, and
written without.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from kbe_nat.family import Family, family_of
from kbe_nat.model import join_address


def parse_address(text: str) -> str:
    """An address in canonical form; one that is IPv4 mapped into IPv6 is IPv4, as it is to Go.

    Raises ValueError when it is none.
    """
    if _CANONICAL_IPV4.fullmatch(text):
        # Most of hundreds of thousands, told apart without the work below.
        return text
    match = _DOTTED.search(text)
    if match:
        numbers = [int(number) for number in match[0].split(".")]
        if max(numbers) > 255:
            raise ValueError(f"{text!r} is no IP address")
        text = text[: match.start()] + ".".join(map(str, numbers))
        if match.start() == 0:
            return text
    try:
        address = IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone, which means nothing to other hosts")
    return str(address.ipv4_mapped or address)


def parse_range(text: str) -> str:
    """A range such as "10.0.0.0/8" in canonical form, bits behind the prefix cleared.

    Raises ValueError when it is none.
    """
    base, slash, length = text.strip().partition("/")
    if not slash or not _DIGITS.fullmatch(length):
        raise ValueError(f"{text!r} is no address range")
    address = ip_address(parse_address(base))
    prefix = int(length)
    if "." in base and ":" in base:
        prefix -= 128 - address.max_prefixlen
    if not 0 <= prefix <= address.max_prefixlen:
        raise ValueError(f"{text!r} has no valid prefix length")
    shift = address.max_prefixlen - prefix
    return f"{type(address)(int(address) >> shift << shift)}/{prefix}"


def endpoint_refusal(address: str) -> str | None:
    """Why traffic may not be sent to this (canonical) endpoint address; None when it may.

    An author of EndpointSlices could otherwise reach addresses that only the node itself should
    (CVE-2021-25737).
    """
    if "." in address and int(address.partition(".")[0]) not in _SUSPICIOUS:
        return None
    ip = ip_address(address)
    for trait in ("is_unspecified", "is_loopback", "is_link_local", "is_multicast"):
        if getattr(ip, trait):
            return f"{address} is {trait.removeprefix('is_').replace('_', '-')}"
    if isinstance(ip, IPv4Address) and (int(ip) >> 24 == 0 or int(ip) == 0xFFFFFFFF):
        return f"{address} is no address of a host"
    return None


def frontend_refusal(address: str) -> str | None:
    """Why nothing may be served at this (canonical) external or balanced address; None when it may.
    kube-proxy takes any, but loopback is every host's own.
    """
    ip = ip_address(address)
    for trait in ("is_unspecified", "is_loopback"):
        if getattr(ip, trait):
            return f"{address} is {trait.removeprefix('is_')}"
    return None


def split_address(text: str) -> tuple[str, int | None]:
    """Address and port of "10.0.0.1", "10.0.0.1:80", "fd00::1" or "[fd00::1]:80"; the port is None
    when it is left out.

    Raises ValueError when the text is none of these.
    """
    match = _BRACKETED.fullmatch(text)
    if match is None and text.count(":") == 1:
        match = _PLAIN.fullmatch(text)
        if match is None and is_address(text.partition(":")[0]):
            raise ValueError(f"{text!r}: a port is a number")
    if match is None:
        if not is_address(text) and (bracketed := _in_brackets(text)):
            raise ValueError(f"{text!r}: an IPv6 address with a port is written {bracketed}")
        return parse_address(text), None
    address = parse_address(match[1])
    if text.startswith("[") and family_of(address) == Family.IPV4 and ":" not in match[1]:
        raise ValueError(f"{text!r}: only an IPv6 address stands in brackets")
    if match[2] is None:
        return address, None
    port = int(match[2])
    if port > 65535:
        raise ValueError(f"{text!r}: a port is at most 65535")
    return address, port


def without_port(text: str) -> str:
    """What to say of an end that `split_address` found no port in."""
    address, _ = split_address(text)
    # What reads as one longer address may be meant as one with a port.
    example = _in_brackets(text) or join_address(address, 80)
    return f"{text!r} has no port: write it as in {example}"


def _in_brackets(text: str) -> str:
    """A text as an IPv6 address and a port that was written without brackets; empty: it is none."""
    head, _, port = text.rpartition(":")
    return f"[{head}]:{port}" if ":" in head and port.isdecimal() and is_address(head) else ""


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


_SUSPICIOUS: Final = frozenset((0, 127, 169, *range(224, 240), 255))
"""First octets of all IPv4 addresses that may be refused: most are told apart without the work of
parsing them.
"""
_CANONICAL_IPV4: Final = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.|\Z)){4}(?<=[0-9])", re.ASCII
)
_DOTTED: Final = re.compile(r"(?<![0-9A-Fa-f.])[0-9]{1,9}(?:\.[0-9]{1,9}){3}\Z", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,9}))?", re.ASCII)
_PLAIN: Final = re.compile(r"([^:]*):([0-9]{1,9})", re.ASCII)
