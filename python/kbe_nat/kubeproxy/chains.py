"""The chains of kube-proxy that a packet goes through, by the decision about it."""

from kbe_nat.kubeproxy.names import (
    ENDPOINT,
    EXTERNAL,
    FIREWALL,
    LOCAL,
    SERVICE,
    iptables_chain,
    nft_base,
    nft_endpoint_base,
)
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import CLUSTER_IP, LOAD_BALANCER, NODE_PORT, Backend, PlannedPort


def chains(
    port: PlannedPort, kind: str, scope: str | None, backend: str | None, mode: Mode
) -> list[str]:
    """The chains that a packet to a frontend of this kind goes through, in order: to the endpoint's
    where it is served, or to the one that refuses it.
    """
    if scope is None:
        return _refusing(port, kind, mode)
    return (
        _nft(port, kind, scope, backend)
        if mode is Mode.NFTABLES
        else _iptables(port, kind, scope, backend)
    )


def _iptables(port: PlannedPort, kind: str, scope: str, backend: str | None) -> list[str]:
    path = ["KUBE-SERVICES"]
    if kind == NODE_PORT:
        path.append("KUBE-NODEPORTS")
    if kind == LOAD_BALANCER and port.source_ranges:
        path.append(iptables_chain(FIREWALL, port))
    if kind != CLUSTER_IP:
        path.append(iptables_chain(EXTERNAL, port))
    path.append(iptables_chain(LOCAL if scope == "local" else SERVICE, port))
    endpoint = _find_backend(port, backend)
    return [*path, iptables_chain(ENDPOINT, port, endpoint)] if endpoint else path


def _nft(port: PlannedPort, kind: str, scope: str, backend: str | None) -> list[str]:
    base = nft_base(port)
    path = []
    if kind == LOAD_BALANCER and port.source_ranges:
        path += ["firewall-check", f"firewall-{base}"]
    path.append("services")
    if kind != CLUSTER_IP:
        path.append(f"external-{base}")
    path.append(f"{'local' if scope == 'local' else 'service'}-{base}")
    endpoint = _find_backend(port, backend)
    # Only with affinity endpoints have chains of their own.
    if endpoint is None or port.affinity_seconds is None:
        return path
    return [*path, f"endpoint-{nft_endpoint_base(port, endpoint)}"]


def _refusing(port: PlannedPort, kind: str, mode: Mode) -> list[str]:
    is_ranged = kind == LOAD_BALANCER and port.source_ranges and port.cluster_backends
    if mode is Mode.NFTABLES:
        if is_ranged and port.has_external_endpoints:
            return ["firewall-check", f"firewall-{nft_base(port)}"]
        return ["nodeport-endpoints-check" if kind == NODE_PORT else "service-endpoints-check"]
    if kind == CLUSTER_IP:
        return ["KUBE-SERVICES (filter)"]
    if is_ranged and port.has_external_endpoints:
        return ["KUBE-SERVICES", iptables_chain(FIREWALL, port), "KUBE-PROXY-FIREWALL (filter)"]
    return ["KUBE-EXTERNAL-SERVICES (filter)"]


def _find_backend(port: PlannedPort, backend: str | None) -> Backend | None:
    return next(
        (
            candidate
            for candidate in (*port.cluster_backends, *port.local_backends)
            if str(candidate) == backend
        ),
        None,
    )
