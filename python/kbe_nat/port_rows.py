"""What the rows about service ports have in common, whichever verb prints them by `-o json`."""

from typing import Any

import msgspec

from kbe_nat.model import port_parts


class PortRow(msgspec.Struct, frozen=True):
    """A row about a service port."""

    service: str
    """The service port, as namespace/name:port; without the colon for an unnamed port."""
    namespace: str
    """Of the Service."""
    name: str
    """Of the Service."""
    port_name: str
    """Of the port; empty for an unnamed one."""


class OptionalPortRow(msgspec.Struct, frozen=True):
    """A row about the service port that something belongs to; all four are null where there is
    none.
    """

    service: str | None
    """The service port, as namespace/name:port; without the colon for an unnamed port."""
    namespace: str | None
    """Of the Service."""
    name: str | None
    """Of the Service."""
    port_name: str | None
    """Of the port; empty for an unnamed one."""


def port_fields(name: str) -> dict[str, Any]:
    """The fields of a `PortRow`, by the name of the service port."""
    return {"service": name, **dict(zip(PARTS, port_parts(name), strict=True))}


def optional_port_fields(name: str | None) -> dict[str, Any]:
    """The fields of an `OptionalPortRow`; an empty name stands for none."""
    return port_fields(name) if name else dict.fromkeys(("service", *PARTS))


PARTS = ("namespace", "name", "port_name")
