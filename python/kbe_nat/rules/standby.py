"""Whom the kernel serves by itself while no daemon listens: one backend per frontend, and who is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from zlib import crc32

from kbe_nat.policy import CLUSTER_IP, LOAD_BALANCER, Listener, Plan, PortPolicy, Target
from kbe_nat.rules import frontends

Frontend = tuple[str, str, int]
"""Address, protocol and port."""


class OnDeath(StrEnum):
    """What becomes of new connections while no daemon listens."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Standby:
    """What the kernel does by itself, for one family."""

    backends: Mapping[Frontend, Target] = field(default_factory=dict)
    """Who serves the frontends that need no other decision."""
    preserved: frozenset[Frontend] = frozenset()
    """Of these, those whose clients keep their source; the others' are masqueraded, so that answers come back
    here wherever the backend is.
    """
    unserved: frozenset[Frontend] = frozenset()
    """Refused: nobody may serve them, or not everybody may be let in."""


def standby(plan: Plan, number: int, on_death: OnDeath, before: Standby) -> Standby:
    """The standby for one family; a backend of `before` stays for as long as it may serve."""
    backends: dict[Frontend, Target] = {}
    preserved: set[Frontend] = set()
    unserved: set[Frontend] = set()
    for frontend, policy, own, is_closed in frontends(plan, number):
        if frontend in backends or frontend in unserved:
            continue
        able = [] if is_closed or on_death is OnDeath.REFUSE else _able(policy, own)
        if not able:
            unserved.add(frontend)
            continue
        known = before.backends.get(frontend)
        # Spread over the backends by what does not change from one plan to the next.
        backends[frontend] = known if known in able else able[crc32(repr(frontend).encode()) % len(able)]
        if own.kind != CLUSTER_IP and policy.is_external_local:
            preserved.add(frontend)
    return Standby(backends, frozenset(preserved), frozenset(unserved))


def _able(policy: PortPolicy, listener: Listener) -> list[Target]:
    """Backends that may serve everybody who comes this way."""
    is_internal = listener.kind == CLUSTER_IP
    is_restricted = listener.kind == LOAD_BALANCER or (policy.ranges_everywhere and not is_internal)
    if policy.source_ranges and is_restricted:
        return []
    is_local = policy.is_internal_local if is_internal else policy.is_external_local
    return [own for own in (policy.local if is_local else policy.cluster) if own.weight > 0]


def all_backends(plan: Plan, number: int) -> Iterator[tuple[str, int]]:
    """Address and port of every endpoint of one family, some more than once."""
    for policy in plan.ports:
        if policy.family == number:
            yield from ((own.address, own.port) for own in policy.cluster)
            yield from ((own.address, own.port) for own in policy.local)
