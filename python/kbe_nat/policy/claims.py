"""Which service port has which address and port: each has one owner, the first to claim it."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kbe_nat.model import join_address
from kbe_nat.policy.plan import CLUSTER_IP, Frontend, PlannedPort, PortChanges


@dataclass(frozen=True, slots=True)
class Claims:
    """Which frontends the service ports of a plan have got."""

    drafts: list[PlannedPort] = field(default_factory=list)
    narrowed: Mapping[int, tuple[Frontend, ...]] = field(default_factory=dict)
    """Listeners of those that have not got all of theirs, by place."""
    notes: tuple[str, ...] = ()
    ports: tuple[PlannedPort, ...] = ()
    """The drafts with what they have got, without those that have got nothing."""
    changes: PortChanges | None = None

    def follow(self, drafts: list[PlannedPort]) -> "Claims":
        """The claims of these service ports, which take the place of those before. Cost: a
        comparison for each; a look at every frontend when any claims otherwise.
        """
        is_same = map(operator.is_, drafts, self.drafts)
        changed = [number for number, same in enumerate(is_same) if not same]
        if len(drafts) == len(self.drafts) and all(
            _claims_alike(drafts[number], self.drafts[number]) for number in changed
        ):
            return self._with(drafts, changed)
        return _settled(drafts)

    def _with(self, drafts: list[PlannedPort], changed: list[int]) -> "Claims":
        """The same, for other drafts in some places that claim the same."""
        if not changed:
            return replace(self, changes=PortChanges(self.ports, (), ()))
        ports = _granted(drafts, self.narrowed)
        if self.narrowed:
            return replace(self, drafts=drafts, ports=ports, changes=None)
        gone, come = (tuple(own[number] for number in changed) for own in (self.drafts, drafts))
        return replace(
            self, drafts=drafts, ports=ports, changes=PortChanges(self.ports, gone, come)
        )


def _settled(drafts: list[PlannedPort]) -> Claims:
    """Cluster IPs are claimed before the rest: the API server allocates them, while any tenant can
    write somebody else's into `externalIPs` (CVE-2020-8554).
    """
    owners: dict[tuple[str, str, int], str] = {}
    notes: list[str] = []
    kept: list[list[Frontend]] = [[] for _ in drafts]
    for wants_cluster_ip in (True, False):
        for number, draft in enumerate(drafts):
            for frontend in draft.frontends:
                if (frontend.kind == CLUSTER_IP) != wants_cluster_ip:
                    continue
                place = frontend.address or f"every IPv{draft.family} address of the node"
                owner = owners.setdefault((draft.protocol, place, frontend.port), draft.name)
                if owner == draft.name:
                    kept[number].append(frontend)
                else:
                    notes.append(_lost(draft, frontend, place, owner))
    narrowed = {
        number: tuple(kept[number])
        for number, draft in enumerate(drafts)
        if len(kept[number]) < len(draft.frontends)
    }
    return Claims(drafts, narrowed, tuple(notes), _granted(drafts, narrowed))


def _lost(draft: PlannedPort, frontend: Frontend, place: str, owner: str) -> str:
    where = (
        join_address(place, frontend.port)
        if frontend.address
        else f"port {frontend.port} of {place}"
    )
    return f"Service {draft.name}: {draft.protocol} {where} is not served for it: it belongs to {owner}"


def _granted(
    drafts: list[PlannedPort], narrowed: Mapping[int, tuple[Frontend, ...]]
) -> tuple[PlannedPort, ...]:
    if not narrowed:
        return tuple(drafts)
    ports: list[PlannedPort | None] = list(drafts)
    for number, frontends in narrowed.items():
        ports[number] = replace(drafts[number], frontends=frontends) if frontends else None
    return tuple(port for port in ports if port)


def _claims_alike(one: PlannedPort, other: PlannedPort) -> bool:
    return (one.name, one.protocol, one.family, one.frontends) == (
        other.name,
        other.protocol,
        other.family,
        other.frontends,
    )
