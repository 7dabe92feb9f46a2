"""What became of a replay's packets: per service and backend, and by cause where they were refused."""

from typing import Any, Final

from kbe_nat._native import ServiceStats, Stats
from kbe_nat.cli.output import table
from kbe_nat.model import join_address


def summary(capture: str, seed: int, stats: Stats) -> dict[str, Any]:
    """The counters as JSON shows them. Pairs are "forward", towards the backend, and "back"."""
    attributed: dict[str, int] = {}
    for service in stats.services:
        for cause, packets in service.refused.items():
            attributed[cause] = attributed.get(cause, 0) + packets
    elsewhere = {
        cause: packets - attributed.get(cause, 0)
        for cause, packets in stats.causes.items()
        if cause not in CARRIED and packets > attributed.get(cause, 0)
    }
    return {
        "capture": capture,
        "seed": seed,
        "packets": sum(stats.actions.values()),
        "actions": dict(stats.actions),
        "causes": dict(stats.causes),
        "flows": sum(service.flows for service in stats.services),
        "services": [_service(service) for service in stats.services],
        "refused_without_service": elsewhere,
    }


def tables(result: dict[str, Any]) -> list[Any]:
    """The same for people."""
    actions = ", ".join(
        f"{number} {ACTION_WORDS.get(name, name)}" for name, number in result["actions"].items() if number
    )
    title = (
        f"{result['packets']} packets of {result['capture']}, seed {result['seed']}: {actions or 'no packet'}"
    )
    carried = table(
        "Services", "service", "backend", "flows", "packets", "packets back", "bytes", "bytes back", right=5
    )
    refused = table("Refused", "service", "cause", "packets", right=1)
    for service in result["services"]:
        carried.add_row(service["name"], "", *_numbers(service))
        for backend in service["backends"]:
            carried.add_row("", join_address(backend["address"], backend["port"]), *_numbers(backend))
        for cause, packets in service["refused"].items():
            refused.add_row(service["name"], cause, str(packets))
    for cause, packets in result["refused_without_service"].items():
        refused.add_row("(no service)", cause, str(packets))
    return [title, "", carried, *(["", refused] if refused.row_count else [])]


def _service(service: ServiceStats) -> dict[str, Any]:
    return {
        "name": service.name,
        "flows": service.flows,
        "active": service.active,
        "packets": _pair(service.packets),
        "bytes": _pair(service.bytes),
        "refused": dict(service.refused),
        "backends": [
            {
                "address": backend.address,
                "port": backend.port,
                "flows": backend.flows,
                "active": backend.active,
                "packets": _pair(backend.packets),
                "bytes": _pair(backend.bytes),
            }
            for backend in service.backends
        ],
    }


def _pair(counts: tuple[int, int]) -> dict[str, int]:
    return {"forward": counts[0], "back": counts[1]}


def _numbers(counted: dict[str, Any]) -> list[str]:
    packets, octets = counted["packets"], counted["bytes"]
    return [
        str(n)
        for n in (counted["flows"], packets["forward"], packets["back"], octets["forward"], octets["back"])
    ]


CARRIED: Final = frozenset(
    ("established", "new", "related", "fragment", "fragment-held", "not-ours", "invalid")
)
"""Causes of packets that went on, or wait; an invalid one that was dropped is counted at its service."""
ACTION_WORDS: Final = {
    "accept": "left alone",
    "translate": "translated",
    "drop": "dropped",
    "reject": "rejected",
    "hold": "held",
}
