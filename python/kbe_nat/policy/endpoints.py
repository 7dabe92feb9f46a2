"""Which endpoints may serve a service port on one node.

As pkg/proxy/topology.go and endpointslicecache.go: ready endpoints serve, those that are hinted for
this node or its zone before others. Where no endpoint is ready, those that terminate but still
serve stand in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Node, ServicePort, Snapshot, join_address
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, PlannedPort

Candidate: TypeAlias = tuple[Backend, Endpoint]
"""An endpoint, and what it is as a backend of one port."""
EndpointsOf: TypeAlias = Callable[[ServicePort], list[Candidate]]
"""The endpoints of a service port, sorted by the text of address and port."""


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """The node's name and zone, which decide about endpoints."""

    node: str
    """Its name; empty when it is none of the cluster's."""
    zone: str = ""

    def is_local(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is on this node."""
        return bool(endpoint.node) and endpoint.node == self.node

    def of_family(self, slices: Iterable[EndpointSlice], family: Family) -> EndpointsOf:
        """The endpoints of one family, to be asked for each service port. Cost: linear in the ports
        of the slices; of an answer in the port's endpoints.
        """
        # Grouped once: a Service may have thousands of ports, and all of its slices name them all.
        by_port: dict[tuple[str, str], list[tuple[int, EndpointSlice]]] = {}
        for part in slices:
            if part.family == family:
                for port in part.ports:
                    by_port.setdefault((port.name, port.protocol), []).append((port.port, part))
        return lambda port: self.merge(by_port.get((port.name, port.protocol), ()))

    def merge(self, parts: Iterable[tuple[int, EndpointSlice]]) -> list[Candidate]:
        """The endpoints of slices on these ports, each once. Slices overlap while a pod moves
        between them, and one may name an address twice: the last one that does not terminate
        counts, else the first.
        """
        best: dict[str, Candidate] = {}
        for port, part in parts:
            for endpoint in part.endpoints:
                text = join_address(endpoint.address, port)
                # kube-proxy's rule: an entry that terminates never hides one that may serve.
                if text not in best or not endpoint.is_terminating:
                    backend = Backend(
                        endpoint.address, port, endpoint.weight, self.is_local(endpoint)
                    )
                    best[text] = (backend, endpoint)
        # Sorted as text, as kube-proxy lists them in chains: equal sets in another order are no
        # change.
        return [best[text] for text in sorted(best)]

    def cluster_backends(self, candidates: list[Candidate]) -> tuple[Backend, ...]:
        """The backends of traffic that any node's endpoints may serve."""
        ready = [pair for pair in candidates if pair[1].is_ready]
        # KEP-1669: while no endpoint is ready, a rolling update on its last pod need not refuse
        # clients.
        chosen = self.prefer_hinted(ready) or _terminating(candidates)
        return tuple(backend for backend, _ in chosen)

    def local_backends(self, candidates: list[Candidate]) -> tuple[Backend, ...]:
        """The backends of traffic that must stay on this node."""
        local = [pair for pair in candidates if self.is_local(pair[1])]
        ready = [pair for pair in local if pair[1].is_ready]
        return tuple(backend for backend, _ in ready or _terminating(local))

    def prefer_hinted(self, ready: list[Candidate]) -> list[Candidate]:
        """The endpoints that are hinted for this node, else for its zone. Hints count only when
        every ready endpoint has them and one of them is met.
        """
        if self.node and all(endpoint.nodes for _, endpoint in ready):
            near = [pair for pair in ready if self.node in pair[1].nodes]
            if near:
                return near
        if self.zone and all(endpoint.zones for _, endpoint in ready):
            near = [pair for pair in ready if self.zone in pair[1].zones]
            if near:
                return near
        return ready

    def exclusion(self, endpoint: Endpoint, *, is_local: bool) -> str:
        """Why an endpoint is not in the list of its scope."""
        if is_local and not self.is_local(endpoint):
            return (
                f"it is on node {endpoint.node}, not on this one"
                if endpoint.node
                else "it is on no node"
            )
        if endpoint.is_terminating:
            return "it terminates, and others are ready" if endpoint.is_serving else "it terminates"
        if not endpoint.is_ready:
            return "it is not ready"
        hints = sorted(endpoint.nodes or endpoint.zones)
        kind = "nodes" if endpoint.nodes else "zones"
        return f"it is hinted for {kind} {', '.join(hints)}" if hints else "others are nearer"


def exclusions(
    snapshot: Snapshot, port: PlannedPort, options: Options, *, is_local: bool
) -> dict[str, str]:
    """Endpoints of a service port that may not serve, in one of its two scopes, each with the
    reason; by address and port. Cost: linear in the Service's endpoints.
    """
    node = snapshot.nodes.get(options.node, Node(options.node))
    rules = EndpointRules(options.node, node.zone)
    slices = snapshot.slices.get((port.namespace, port.service), ())
    candidates = rules.of_family(slices, port.family)(ServicePort(port.port_name, port.protocol, 0))
    backends = {
        str(backend): backend
        for backend in (port.local_backends if is_local else port.cluster_backends)
    }
    reasons = {}
    for backend, endpoint in candidates:
        chosen = backends.get(str(backend))
        if chosen is None:
            reasons[str(backend)] = rules.exclusion(endpoint, is_local=is_local)
        elif not chosen.weight:
            reasons[str(backend)] = "it is being drained: its weight is 0"
    return reasons


def serving_beside(
    candidates: list[Candidate], cluster: tuple[Backend, ...], local: tuple[Backend, ...]
) -> tuple[Backend, ...]:
    """The endpoints that serve still but get nothing new: they terminate, or hints and policies
    leave them out.
    """
    if len(cluster) == len(candidates):
        return ()
    listed = {*cluster, *local}
    return tuple(
        backend for backend, endpoint in candidates if endpoint.is_serving and backend not in listed
    )


def _terminating(candidates: list[Candidate]) -> list[Candidate]:
    """The endpoints that still serve while they go: better than nothing."""
    return [pair for pair in candidates if pair[1].is_serving and pair[1].is_terminating]
