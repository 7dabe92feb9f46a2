"""The ports that one Service wants on a node, with their frontends and endpoints.

As pkg/proxy/serviceport.go. Which of the frontends it gets is settled in `claims`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from kbe_nat.family import Family, family_of
from kbe_nat.model import EndpointSlice, Node, Service, ServicePort, Strategy
from kbe_nat.policy.endpoints import EndpointRules, serving_beside
from kbe_nat.policy.node_ports import contains, primary_address
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import (
    CLUSTER_IP,
    EXTERNAL_IP,
    LOAD_BALANCER,
    NODE_PORT,
    Frontend,
    HealthCheck,
    PlannedPort,
)


@dataclass(frozen=True, slots=True)
class PlannedService:
    """The consequences of a Service and its slices."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    ports: tuple[PlannedPort, ...]
    """With all frontends that they ask for."""
    health: HealthCheck | None
    notes: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """It matters to it which node this is."""
        return self.service.is_external_local or self.service.is_internal_local

    def sharing(self, former: "PlannedService") -> "PlannedService":
        """This one, with equal backends as the same objects as in `former`. Tables of backends keep
        the first of equal keys, so without it they would keep a second copy of most backends.
        """
        by_key = {port.key: port for port in former.ports}
        ports = tuple(
            port.sharing(by_key[port.key]) if port.key in by_key else port for port in self.ports
        )
        return replace(self, ports=ports)


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """The node and the options, as far as they decide about Services. Equal rules plan alike."""

    endpoints: EndpointRules
    primary_addresses: tuple[str | None, ...]
    """The node's, by family."""
    mode: Mode
    external_ranges: tuple[str, ...]
    strategy: Strategy
    proxy_name: str | None

    @classmethod
    def of(cls, node: Node, options: Options) -> "ServiceRules":
        """The rules of this node. Cost: linear in its addresses."""
        return cls(
            EndpointRules(options.node, node.zone),
            tuple(primary_address(node, options, family) for family in Family),
            options.mode,
            options.external_ranges,
            options.strategy,
            options.proxy_name,
        )

    def plan_service(self, service: Service, slices: tuple[EndpointSlice, ...]) -> PlannedService:
        """The ports that a Service wants. Cost: linear in its frontends and endpoints."""
        external_ips, notes = self._allowed_external_ips(service)
        ports = chain.from_iterable(
            self._plan_family(service, slices, cluster_ip, external_ips)
            for cluster_ip in service.cluster_ips
        )
        return PlannedService(
            service, slices, tuple(ports), self._health_check(service, slices), tuple(notes)
        )

    def _plan_family(
        self,
        service: Service,
        slices: tuple[EndpointSlice, ...],
        cluster_ip: str,
        external_ips: list[str],
    ) -> Iterator[PlannedPort]:
        family = family_of(cluster_ip)
        endpoints_of = self.endpoints.of_family(slices, family)
        balanced = dict.fromkeys(ip for ip in service.load_balancer_ips if family_of(ip) == family)
        external = [ip for ip in external_ips if family_of(ip) == family]
        if self.mode is Mode.NFTABLES:
            # There source ranges are looked at ahead of everything, whatever else the address is.
            external = [ip for ip in external if ip not in balanced]
        ranges, allows_node = self._source_ranges(service, family)
        is_external_too = cluster_ip in balanced or cluster_ip in external
        for port in service.ports:
            internal = Frontend(CLUSTER_IP, cluster_ip, port.port)
            others = [Frontend(EXTERNAL_IP, ip, port.port) for ip in external]
            others += [Frontend(LOAD_BALANCER, ip, port.port) for ip in balanced]
            if port.node_port:
                others.append(Frontend(NODE_PORT, "", port.node_port))
            is_external_local = service.is_external_local and bool(others)
            candidates = endpoints_of(port)
            uses_local = service.is_internal_local or is_external_local
            cluster = self.endpoints.cluster_backends(candidates)
            local = self.endpoints.local_backends(candidates) if uses_local else ()
            frontends = [internal, *others]
            if is_external_too and self._is_external_first(
                has_endpoints=bool(cluster),
                is_served=bool(local) or not service.is_internal_local,
            ):
                frontends = [*others, internal]
            yield PlannedPort(
                namespace=service.namespace,
                service=service.name,
                port_name=port.name,
                protocol=port.protocol,
                family=family,
                frontends=tuple(dict.fromkeys(frontends)),
                cluster_backends=cluster,
                local_backends=local,
                serving_backends=serving_beside(candidates, cluster, local),
                is_internal_local=service.is_internal_local,
                is_external_local=is_external_local,
                affinity_seconds=service.affinity_seconds,
                source_ranges=ranges,
                allows_load_balancer_source=allows_node,
                health_check_node_port=service.health_check_node_port
                if has_health_check(service)
                else 0,
                source_ranges_apply_to_all=service.source_ranges_apply_to_all,
                strategy=service.strategy or self.strategy,
                standby_slots=service.standby_slots,
                choice=service.choice,
                is_cached=service.is_cached,
            )

    def _is_external_first(self, *, has_endpoints: bool, is_served: bool) -> bool:
        """Whether packets to a cluster IP that is an external address of the same Service, too,
        find the rule for that. `is_served` is the cluster IP by itself. In nftables mode a map has
        one element for both, the one that is written last; in iptables mode the cluster IP's rule
        is the first, where it has any.
        """
        return self.mode is Mode.NFTABLES or (has_endpoints and not is_served)

    def _allowed_external_ips(self, service: Service) -> tuple[list[str], list[str]]:
        """The external IPs with which tenants are trusted, and a note for each other one."""
        addresses, notes = [], []
        for address in dict.fromkeys(service.external_ips):
            ranges = self.external_ranges
            if not ranges or any(contains(text, address) for text in ranges):
                addresses.append(address)
            else:
                notes.append(
                    f"Service {service.namespace}/{service.name}: external IP {address} is not "
                    "served: it is outside the ranges that are allowed"
                )
        return addresses, notes

    def _source_ranges(self, service: Service, family: Family) -> tuple[tuple[str, ...], bool]:
        """The ranges that restrict one family, and whether they let this node in."""
        if not service.source_ranges:
            return (), False
        ranges = tuple(text for text in service.source_ranges if family_of(text) == family)
        if any(text.endswith("/0") for text in ranges):
            return (), False
        primary = self.primary_addresses[tuple(Family).index(family)]
        return ranges, primary is not None and any(contains(text, primary) for text in ranges)

    def _health_check(
        self, service: Service, slices: Iterable[EndpointSlice]
    ) -> HealthCheck | None:
        """The answer to load balancers, where they ask: how many addresses of this node are ready,
        on whatever port of the slices.
        """
        if not (service.cluster_ips and has_health_check(service)):
            return None
        endpoints_of = self.endpoints.of_family(slices, family_of(service.cluster_ips[0]))
        names = {(port.name, port.protocol) for part in slices for port in part.ports}
        ready = {
            backend.address
            for name, protocol in names
            for backend, endpoint in endpoints_of(ServicePort(name, protocol, 0))
            if endpoint.is_ready and backend.is_local
        }
        return HealthCheck(
            service.namespace, service.name, service.health_check_node_port, len(ready)
        )


def pod_ranges(node: Node, options: Options) -> tuple[str, ...]:
    """The ranges that tell pods by their addresses, the first of each family: kube-proxy's rules
    know no more.
    """
    ranges = node.pod_ranges if options.uses_node_ranges else options.cluster_ranges
    return tuple({family_of(text): text for text in reversed(ranges)}.values())[::-1]


def has_health_check(service: Service) -> bool:
    """Whether load balancers ask this node about a Service; otherwise the field means nothing."""
    return bool(
        service.health_check_node_port and service.is_load_balancer and service.is_external_local
    )
