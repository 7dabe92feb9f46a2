"""Connections that stay, and new ones that are opened all the time, of both families."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from harness.clients import PORT, VIPS, Clients, endpoints, service
from harness.kube_proxy_rules import KINDS
from harness.programs import NEW_FLOWS
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster

RANGES = """apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [172.30.0.0/16, "fd00:30::/112"]}
---
"""


def objects(*pods: str, more: str = "") -> str:
    """Services of both families with endpoints in these pods; `more` goes on with their specs."""
    services = (service(family, more=more) + endpoints(family, *pods) for family in Family)
    return RANGES + "".join(services)


@contextmanager
def established(cluster: Cluster, names: str = "a") -> Iterator[list[Clients]]:
    """Connections and datagrams of each family, which pods of these names have answered."""
    with ExitStack() as stack:
        groups = [
            stack.enter_context(Clients(cluster, family, 10, kind))
            for family in Family
            for kind in KINDS.values()
        ]
        for clients in groups:
            assert set(clients.asked()) <= set(names)
        yield groups


class NewFlows:
    """A program that opens connections all the time."""

    def __init__(self, cluster: Cluster) -> None:
        command = (*cluster.client.prefix, sys.executable, str(NEW_FLOWS), str(PORT))
        self.process = subprocess.Popen(
            (*command, *VIPS.values()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def counted(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert counts["failed"] == []
        return counts

    def wait_for(self, name: str) -> None:
        """Until this server has answered once more, by each protocol and family."""
        keys = [f"{protocol} {address} {name}" for protocol in KINDS for address in VIPS.values()]
        before = self.counted()["names"]

        def answered() -> bool:
            names = self.counted()["names"]
            return all(names.get(key, 0) > before.get(key, 0) for key in keys)

        eventually(answered, 30)


@contextmanager
def new_flows(cluster: Cluster) -> Iterator[NewFlows]:
    flows = NewFlows(cluster)
    with flows.process:
        try:
            yield flows
        finally:
            flows.process.kill()
