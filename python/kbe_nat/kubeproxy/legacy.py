"""The rules that an old kube-proxy writes for cluster IPs, as `iptables-save | grep
NAME` shows them.

A port without name keeps its colon, in comments and in the text that is hashed, and chances have
five decimals before the kernel rounds them.
"""

from collections.abc import Iterator

from kbe_nat.family import Family
from kbe_nat.kubeproxy import probability
from kbe_nat.kubeproxy.names import ENDPOINT, SERVICE, hashed_chain
from kbe_nat.policy.plan import CLUSTER_IP, Backend, Plan, PlannedPort


def rules(plan: Plan, family: Family, service: str | None = None) -> list[str]:
    """The lines of one family, of one Service ("namespace/name") or of all, in iptables-save's
    order: chains sorted, rules as they stand in them.

    Node ports, external addresses and affinity are left out: cluster IPs alone are shown.
    """
    lines = [
        line
        for port in plan.ports
        if port.family == family and port.cluster_backends
        if service in (None, f"{port.namespace}/{port.service}")
        for line in _port(port)
    ]
    return sorted(lines, key=lambda line: line.split()[1])


def _port(port: PlannedPort) -> Iterator[str]:
    name = f"{port.namespace}/{port.service}:{port.port_name}"
    bits = 128 if port.family == Family.IPV6 else 32
    service = hashed_chain(SERVICE, name + port.protocol)
    for frontend in port.frontends:
        if frontend.kind == CLUSTER_IP:
            match = f"-d {frontend.address}/{bits} -p {port.protocol}"
            comment = f'-m comment --comment "{name} cluster IP"'
            jump = f"-m {port.protocol} --dport {frontend.port} -j {service}"
            yield f"-A KUBE-SERVICES {match} {comment} {jump}"
    comment = f'-m comment --comment "{name}"'
    for index, backend in enumerate(port.cluster_backends):
        remaining = len(port.cluster_backends) - index
        share = probability.chance_text(remaining, probability.LEGACY)
        chance = f" -m statistic --mode random --probability {share}" if remaining > 1 else ""
        yield f"-A {service} {comment}{chance} -j {_endpoint(name, port, backend)}"
    for backend in port.cluster_backends:
        chain = _endpoint(name, port, backend)
        yield f"-A {chain} -s {backend.address}/{bits} {comment} -j KUBE-MARK-MASQ"
        match = f"-p {port.protocol} {comment} -m {port.protocol}"
        yield f"-A {chain} {match} -j DNAT --to-destination {backend}"


def _endpoint(name: str, port: PlannedPort, backend: Backend) -> str:
    return hashed_chain(ENDPOINT, f"{name}{port.protocol}{backend}")
