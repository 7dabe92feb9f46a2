"""The rules that a kube-proxy of the page's time writes for cluster IPs, as `iptables-save | grep NAME` shows
them.

Names are hashed as in pkg/proxy/iptables/proxier.go (portProtoHash, servicePortEndpointChainName); a port
without name keeps its colon, and probabilities have five decimals before the kernel rounds them.
"""

import base64
import hashlib
from collections.abc import Iterator
from typing import Final

from kbe_nat.policy import CLUSTER_IP, Plan, PortPolicy, Target


def rules(plan: Plan, service: str) -> list[str]:
    """The lines of one Service ("namespace/name") in iptables-save's order: chains sorted, rules as they stand
    in them.

    Node ports, external addresses and affinity are left out: the page has none.
    """
    lines = [
        line
        for port in plan.ports
        if f"{port.namespace}/{port.service}" == service and port.cluster
        for line in _port(port)
    ]
    return sorted(lines, key=lambda line: line.split()[1])


def _port(port: PortPolicy) -> Iterator[str]:
    name = f"{port.namespace}/{port.service}:{port.port_name}"
    service = _chain("KUBE-SVC-", name + port.protocol)
    for listener in port.listeners:
        if listener.kind == CLUSTER_IP:
            match = f"-d {listener.address}/{_bits(listener.address)} -p {port.protocol}"
            comment = f'-m comment --comment "{name} cluster IP"'
            yield f"-A KUBE-SERVICES {match} {comment} -m {port.protocol} --dport {listener.port} -j {service}"
    comment = f'-m comment --comment "{name}"'
    for number, target in enumerate(port.cluster):
        left = len(port.cluster) - number
        chance = f" -m statistic --mode random --probability {_probability(left)}" if left > 1 else ""
        yield f"-A {service} {comment}{chance} -j {_endpoint(name, port, target)}"
    for target in port.cluster:
        chain = _endpoint(name, port, target)
        yield f"-A {chain} -s {target.address}/{_bits(target.address)} {comment} -j KUBE-MARK-MASQ"
        match = f"-p {port.protocol} {comment} -m {port.protocol}"
        yield f"-A {chain} {match} -j DNAT --to-destination {target}"


def _endpoint(name: str, port: PortPolicy, target: Target) -> str:
    return _chain("KUBE-SEP-", f"{name}{port.protocol}{target}")


def _chain(prefix: str, text: str) -> str:
    return prefix + base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]


def _probability(left: int) -> str:
    """One of so many, as the kernel keeps it: in units of 2^-31."""
    return f"{round(round(1 / left, 5) * UNITS) / UNITS:.11f}"


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


UNITS: Final = 1 << 31
