"""The Services that live runs serve: many alike, and the measured one, whose pods are real."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from kbe_nat.family import Family
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Service,
    ServiceKey,
    ServicePort,
    SlicePort,
    Snapshot,
)

NAME: Final = "measured"
"""Of the Service that clients talk to."""
AROUND: Final = ("before", "other")
"""Names of the others begin so. In lists by name, such as kube-proxy's chain of all Services, half
of them stand before the measured one, and half behind it.
"""
VIPS: Final = {Family.IPV4: "172.30.228.255", Family.IPV6: "fd00:30::ff"}
"""Its addresses."""
PODS: Final = {
    Family.IPV4: ("172.17.0.3", "172.17.0.4"),
    Family.IPV6: ("fd00:17::3", "fd00:17::4"),
}
"""Addresses of the pods that exist."""
UDP_PORT: Final = 7777
BULK_PORT: Final = 5001
SHORT_PORT: Final = 5002
EXCHANGE_PORT: Final = 5003
PORTS: Final = (
    ("echo", "udp", UDP_PORT),
    ("bulk", "tcp", BULK_PORT),
    ("short", "tcp", SHORT_PORT),
    ("exchange", "tcp", EXCHANGE_PORT),
)
"""Of the measured Service, and of the pods' servers: name, protocol, number."""
ENDPOINTS: Final = 15
"""Of every other Service: in the mean of a large cluster."""


def objects(
    services: int,
    *,
    families: Sequence[Family] = (Family.IPV4,),
    pods: Sequence[int] = (0,),
    endpoints: int = ENDPOINTS,
) -> Snapshot:
    """So many Services as a source yields them, each with an address of every family. The last one
    is the measured one, with these of `PODS` as its endpoints, by position; the others have one TCP
    port and `endpoints` endpoints that do not exist. Cost: linear in all endpoints.
    """
    listed = []
    slices: dict[ServiceKey, tuple[EndpointSlice, ...]] = {}
    for position in range(services - 1):
        service = Service(
            "default",
            f"{AROUND[position % 2]}-{position}",
            tuple(_service_address(family, position) for family in families),
            (ServicePort("", "tcp", 80),),
        )
        listed.append(service)
        slices[service.key] = tuple(
            EndpointSlice(
                f"{service.name}-{family}",
                family,
                (SlicePort("", "tcp", 8080),),
                tuple(
                    Endpoint(_endpoint_address(family, position * endpoints + place))
                    for place in range(endpoints)
                ),
            )
            for family in families
        )
    measured = Service(
        "default",
        NAME,
        tuple(VIPS[family] for family in families),
        tuple(ServicePort(name, protocol, port) for name, protocol, port in PORTS),
    )
    slices[measured.key] = tuple(
        EndpointSlice(
            f"{NAME}-{family}",
            family,
            tuple(SlicePort(name, protocol, port) for name, protocol, port in PORTS),
            tuple(Endpoint(PODS[family][pod]) for pod in pods),
        )
        for family in families
    )
    return Snapshot(1, (*listed, measured), slices)


def _service_address(family: Family, position: int) -> str:
    return str(ip_address(int(SERVICE_ADDRESSES[family]) + position))


def _endpoint_address(family: Family, position: int) -> str:
    return str(ip_address(int(ENDPOINT_ADDRESSES[family]) + position))


SERVICE_ADDRESSES: Final = {
    Family.IPV4: ip_address("172.64.0.0"),
    Family.IPV6: ip_address("fd00:30:0:1::"),
}
ENDPOINT_ADDRESSES: Final = {
    Family.IPV4: ip_address("10.64.0.0"),
    Family.IPV6: ip_address("fd00:10::"),
}
"""Where the ranges of the other Services begin."""
