"""Conformance cases on real packets: the objects of a case are served in a node of namespaces,
every flow's packet is sent, and it must come out where kube-proxy would have sent it.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

import kbe_nat
from harness.conformance_cases import CASES, Case
from harness.lone_node import Node, is_visible, node_for, outcome
from harness.stage import DATAPATHS, connect, serving
from kbe_nat.kubeproxy.config import read_configuration
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Strategy
from kbe_nat.playground.namespaces import inside
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.manifests.manifests import read_manifests

CHOSEN = (
    "cluster-ip-general",
    "detect-local-bridge",
    "detect-local-interface-prefix",
    "detect-local-node-cidr",
    "dual-stack",
    "duplicate-address-in-one-slice",
    "etp-local",
    "hairpin",
    "hints-mixed",
    "internal-traffic-policy",
    "ipv6-only",
    "lb-source-ranges",
    "local-address-overlap",
    "many-ports",
    "masquerade-all",
    "masquerade-base",
    "no-endpoints-reject",
    "nodeport-address-list",
    "nodeport-defaults",
    "overall",
    "own-cluster-ip-as-external-ip",
    "policy-table",
    "refused-after-dnat",
    "slice-port-mapping",
    "terminating-combos",
    "topology-zone-hints",
)


@contextmanager
def served_case(
    case: Case, mode: str, datapath: DatapathKind, scratch: Path
) -> Iterator[tuple[Node, Plan]]:
    """The case's objects, served by a node of its own."""
    case.flags(mode, scratch)
    snapshot = read_manifests([case.objects]).snapshot
    settings = NodeSettings(
        node=case.about["node"], node_addresses=tuple(case.about.get("localAddresses", ()))
    )
    file, _ = read_configuration(scratch / "kube-proxy.yaml")

    def options() -> Options:
        return settings.options(snapshot, file, Strategy.ROUND_ROBIN)

    devices = {flow.get("iif", "eth0") for flow in case.about["flows"]}
    first = plan(snapshot, options())
    with node_for(first, devices) as node:
        # Only now do its devices have numbers.
        made = plan(snapshot, inside(node.name.path, options))
        with serving(node.name, kbe_nat.Engine(seed=1), made, datapath) as node.serving:
            yield node, made


@DATAPATHS
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("case", [case for case in CASES if str(case) in CHOSEN], ids=str)
def test_the_same_outcome(case: Case, mode: str, datapath: DatapathKind, tmp_path: Path) -> None:
    with served_case(case, mode, datapath, tmp_path) as (node, made):
        flows = [flow for flow in case.about["flows"] if is_visible(flow, made)]
        assert flows
        wanted = case.expected(mode)
        ports = count(20_000, 20)
        told = {
            flow["name"]: outcome(node, made, flow, next(ports)) | {"refused": []} for flow in flows
        }
        # Where endpoints refuse, it is the verdict that is seen.
        assert told == {name: {**wanted[name], "refused": []} for name in told}


@DATAPATHS
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_refusals_are_heard_at_once_and_drops_never(
    mode: str, datapath: DatapathKind, tmp_path: Path
) -> None:
    case = next(case for case in CASES if str(case) == "overall")
    with served_case(case, mode, datapath, tmp_path) as (node, _):

        def tried(address: str, port: int) -> float:
            with inside(
                node.name.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            ) as own:
                started = time.monotonic()
                with pytest.raises((ConnectionRefusedError, TimeoutError)):
                    connect(own, (address, port), 0.5)
                return time.monotonic() - started

        # The fastest of several: this machine has other things to do.
        assert min(tried("172.30.0.46", 80) for _ in range(10)) < 0.01, "no endpoints"
        node.name.call("ip", "address", "del", "192.168.0.2/32", "dev", "eth0")
        node.name.call("ip", "address", "add", "203.0.113.7/32", "dev", "eth0")
        assert tried("192.168.99.22", 80) >= 0.5, (
            "no endpoints of this node, for somebody who is not the node"
        )
