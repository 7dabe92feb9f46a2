"""The Services of the chaos run, their endpoints as they change, and when each of them served."""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kbe_nat.family import Family

PODS: Final = 6
STEADY: Final = (0, 1)
"""Pods that always serve every Service."""
PORT: Final = 9999
SERVICES: Final = ("plain", "sticky", "weighted", "shared")
ADDRESSES: Final = {4: "172.17.0.{}", 6: "fd00:17::{}"}
FIRST_POD: Final = 3
CONDITIONS: Final = (
    {"ready": True, "serving": True, "terminating": False},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
    {"ready": False, "serving": False, "terminating": False},
)


def address(pod: int, family: Family) -> str:
    """A pod's address of one family."""
    return ADDRESSES[family].format(FIRST_POD + pod)


def cluster_ip(service: str, family: Family) -> str:
    """A Service's."""
    number = 10 + SERVICES.index(service)
    return f"172.30.0.{number}" if family == 4 else f"fd00:30::{number}"


def frontends() -> list[list[Any]]:
    """What the clients ask: service, protocol, address and port."""
    return [
        [service, protocol, cluster_ip(service, family), 80]
        for service in SERVICES
        for protocol in ("tcp", "udp")
        for family in Family
    ]


@dataclass
class Endpoints:
    """Writes the objects, and remembers when a pod stopped serving a Service."""

    folder: Path
    chance: random.Random
    weights: bool = True
    changes: int = 0
    states: dict[str, dict[int, dict[str, bool]]] = field(default_factory=dict)
    """By service: conditions by pod."""
    history: dict[tuple[str, int], list[tuple[float, bool]]] = field(default_factory=dict)
    """By service and pod: since when it serves, or does not."""

    def begin(self) -> None:
        """Every pod serves every Service."""
        services = []
        for service in SERVICES:
            affinity = {"sessionAffinity": "ClientIP"} if service == "sticky" else {}
            annotations = {"kbe-nat.io/strategy": "wlc"} if service == "weighted" else {}
            ips = [cluster_ip(service, family) for family in (Family.IPV4, Family.IPV6)]
            services.append(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": service, "annotations": annotations},
                    "spec": {
                        "clusterIP": ips[0],
                        "clusterIPs": ips,
                        "ipFamilies": ["IPv4", "IPv6"],
                        "ipFamilyPolicy": "RequireDualStack",
                        "ports": [
                            {
                                "name": protocol,
                                "protocol": protocol.upper(),
                                "port": 80,
                                "targetPort": PORT,
                            }
                            for protocol in ("tcp", "udp")
                        ],
                        **affinity,
                    },
                }
            )
            self.set(service, dict.fromkeys(range(PODS), CONDITIONS[0]))
        self._write("services.json", services)

    def change(self) -> None:
        """Another random set of endpoints for one Service.

        Some pods serve it all the time, ready or not, so that their flows may never move. At least
        two of all are ready, so that one of them can be drained.
        """
        service = self.chance.choice(SERVICES)
        states = {pod: self.chance.choices(CONDITIONS[:2], (2, 1))[0] for pod in STEADY}
        for pod in range(len(STEADY), PODS):
            if self.chance.random() < 0.7:
                states[pod] = self.chance.choices(CONDITIONS, (4, 2, 1, 1))[0]
        ready = self.chance.sample(sorted(states), 2)
        self.set(service, states | dict.fromkeys(ready, CONDITIONS[0]))
        self.changes += 1

    def set(self, service: str, states: dict[int, dict[str, bool]]) -> None:
        """Writes the Service's slices."""
        now = time.monotonic()
        for pod in range(PODS):
            is_serving = pod in states and states[pod]["serving"]
            past = self.history.setdefault((service, pod), [])
            if not past or past[-1][1] != is_serving:
                past.append((now, is_serving))
        self.states[service] = states
        self._write(
            f"{service}.json",
            [self._slice(service, family, states) for family in Family],
        )

    def stopped(self, service: str, pod: int, since: float, until: float) -> bool:
        """Whether the pod did not serve the Service at some moment of this time."""
        past = self.history[service, pod]
        for (start, is_serving), following in zip(past, [*past[1:], (until, True)], strict=True):
            if not is_serving and start <= until and following[0] >= since:
                return True
        return False

    def gone_for(self, service: str, pod: int, moment: float) -> float:
        """Seconds for which the pod had not served the Service at this moment; 0 if it did."""
        before = [entry for entry in self.history[service, pod] if entry[0] <= moment]
        return 0.0 if not before or before[-1][1] else moment - before[-1][0]

    def _slice(
        self, service: str, family: Family, states: dict[int, dict[str, bool]]
    ) -> dict[str, Any]:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-{family}",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": f"IPv{family}",
            "ports": [
                {"name": protocol, "protocol": protocol.upper(), "port": PORT}
                for protocol in ("tcp", "udp")
            ],
            "endpoints": [
                {"addresses": [address(pod, family)], "conditions": conditions}
                for pod, conditions in states.items()
            ],
        }

    def _write(self, name: str, objects: list[dict[str, Any]]) -> None:
        new = self.folder / f".{name}.new"
        new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        new.replace(self.folder / name)
