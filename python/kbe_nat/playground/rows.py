"""The rows of `kbe-nat playground get`, which `-o json` prints. docs/json.md is made from this
file.
"""

import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from kbe_nat.playground.world import KINDS, Pod, World
from kbe_nat.policy.selector import Selector


class PodRow(msgspec.Struct, frozen=True):
    """`playground get pods`: one pod."""

    name: str
    """Of the pod."""
    address: str
    """Of the pod."""
    ready: bool
    """Whether its server runs."""
    status: str
    """Running or Failed."""
    restarts: int
    """Always 0: the playground starts a server once."""
    seconds: int
    """Since the pod was started."""


class ServiceObjectRow(msgspec.Struct, frozen=True):
    """`playground get svc`: one Service."""

    name: str
    """Of the Service."""
    cluster_ip: str
    """Of the object; empty where the playground is to choose one."""
    external_ips: list[str]
    """Its external addresses."""
    ports: list[str]
    """Port and protocol, such as 80/TCP."""
    seconds: int
    """Since the Service was made."""


class ControllerRow(msgspec.Struct, frozen=True):
    """`playground get rc`: one controller."""

    name: str
    """Of the controller."""
    desired: int
    """Pods that it is to have."""
    current: int
    """Pods that it has."""
    ready: int
    """Pods whose server runs."""
    seconds: int
    """Since the controller was made."""


class EndpointsRow(msgspec.Struct, frozen=True):
    """`playground get endpoints`: one port of a Service."""

    name: str
    """Of the Service."""
    endpoints: list[str]
    """Addresses with ports."""


Row: TypeAlias = PodRow | ServiceObjectRow | ControllerRow | EndpointsRow


def pod_rows(world: World, selector: Selector) -> Iterator[PodRow]:
    """The pods that labels select."""
    for pod in world.pods():
        if selector.selects(pod.labels):
            is_alive = pod.server.is_alive
            yield PodRow(pod.name, pod.address, is_alive, status(pod), 0, age(pod.since))


def service_rows(world: World, selector: Selector) -> Iterator[ServiceObjectRow]:
    """The Services that labels select."""
    for item, since in world.objects("Service"):
        if not selector.selects(item.value.metadata.labels):
            continue
        spec: Any = item.value.spec  # type: ignore[union-attr]
        ports = [f"{port.port}/{port.protocol}" for port in spec.ports]
        name = item.value.metadata.name
        yield ServiceObjectRow(name, spec.cluster_ip, [*spec.external_ips], ports, age(since))


def controller_rows(world: World, selector: Selector) -> Iterator[ControllerRow]:
    """The controllers that labels select, kind by kind."""
    pods = world.pods()
    for kind in sorted({*KINDS.values()} - {"Service"}):
        for item, since in world.objects(kind):
            if not selector.selects(item.value.metadata.labels):
                continue
            spec: Any = item.value.spec  # type: ignore[union-attr]
            name = item.value.metadata.name
            members = [pod for pod in pods if pod.owner == name]
            ready = sum(pod.server.is_alive for pod in members)
            yield ControllerRow(name, spec.replicas, len(members), ready, age(since))


def endpoints_rows(world: World, selector: Selector) -> Iterator[EndpointsRow]:
    """The endpoints that the node's plan has for each port of a Service that labels select."""
    services = {row.name for row in service_rows(world, selector)}
    for port in world.plan().ports:
        if port.service not in services:
            continue
        yield EndpointsRow(port.service, list(map(str, port.cluster_backends)))


def status(pod: Pod) -> str:
    """The pod's phase, in kubectl's words."""
    return "Running" if pod.server.is_alive else "Failed"


def age(since: float) -> int:
    """Whole seconds since this time."""
    return max(0, int(time.time() - since))
