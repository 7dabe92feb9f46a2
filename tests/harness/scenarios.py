"""Small scenarios of the lab."""

from collections.abc import Mapping
from typing import Any


def scenario(**changes: Any) -> dict[str, Any]:
    """A hundred connections of ten clients to two backends in ten seconds, with these fields in the
    place of its own.
    """
    values: dict[str, Any] = {
        "name": "small",
        "duration": 10,
        "services": [{"name": "web", "backends": [{"count": 2}]}],
        "traffic": [traffic()],
        "strategies": ["rr"],
        "repeats": 1,
    }
    return values | changes


def traffic(**changes: Any) -> dict[str, Any]:
    """Ten connections a second, each for two and a half seconds."""
    values: dict[str, Any] = {
        "service": "web",
        "arrivals": {"kind": "paced", "rate": 10},
        "clients": {"count": 10},
        "lifetime": 2.5,
    }
    return values | changes


def poisson(rate: float, **changes: Any) -> dict[str, Any]:
    """Connections at random, of many clients."""
    arrivals: Mapping[str, Any] = {"kind": "poisson", "rate": rate}
    return traffic(**{"arrivals": arrivals, "clients": {"count": 10_000}} | changes)


def service(count: int, **changes: Any) -> dict[str, Any]:
    """The Service with so many backends alike."""
    return {"name": "web", "backends": [{"count": count}]} | changes
