"""The name of a Service in the place of an address: the frontend that it stands for."""

from collections.abc import Iterable

import msgspec

from kbe_nat.cli.kinds import service_name
from kbe_nat.errors import NotFoundError, SettingError
from kbe_nat.model import join_address, port_names, qualified
from kbe_nat.sources.address import split_address


class Place(msgspec.Struct, frozen=True):
    """A frontend; without an address it is a node port, which every address of the node has."""

    address: str | None
    port: int


class Reachable(msgspec.Struct, frozen=True):
    """A service port, and where clients reach it: a part of what the daemon tells of it."""

    service: str
    """As namespace/name, or namespace/name:port."""
    protocol: str
    frontends: list[Place]


def is_name(text: str) -> bool:
    """Whether a Service is named, and no address: names begin with letters."""
    try:
        split_address(text)
    except ValueError:
        return text[:1].isalpha()
    return False


def frontend_of(text: str, ports: Iterable[Reachable], protocol: str | None) -> tuple[str, str]:
    """Address and port as text, and the protocol, of the frontend that NAME, NAME:PORT or
    svc/NAME:PORT stands for. Raises `NotFoundError`; `SettingError` where the name is of several
    ports.
    """
    name = qualified(service_name(text))
    chosen = [
        (each, place.address, place.port)
        for each in ports
        for place in each.frontends
        if place.address is not None
        and name in port_names(each.service, [place.port])
        and protocol in (None, each.protocol)
    ]
    if not chosen:
        raise NotFoundError("services", f"{name} ({protocol})" if protocol else name)
    names = dict.fromkeys(each.service for each, *_ in chosen)
    if len(names) > 1:
        raise SettingError("--to", f"{text} has several ports: say one of {', '.join(names)}")
    each, address, number = chosen[0]
    return join_address(address, number), each.protocol
