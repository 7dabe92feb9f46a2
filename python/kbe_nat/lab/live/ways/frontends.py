"""The objects as a list of frontends, for programs that know no Services; and virtual IPs as the
node's own addresses, which some of these need.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from kbe_nat.family import Family, family_of
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.ways.programs import load
from kbe_nat.model import Snapshot

IP_BATCH: Final = ("ip", "-batch", "-")


class Frontend(NamedTuple):
    """A port of a Service at one of its addresses, and the endpoints behind it."""

    name: str
    """Of the Service and the port."""
    address: str
    protocol: str
    port: int
    endpoints: tuple[str, ...]
    """Addresses."""
    target: int
    """Their port."""


def frontends(objects: Snapshot, family: Family) -> Iterator[Frontend]:
    """Those of a family, in the order of the Services."""
    for service in objects.services:
        addresses = [each for each in service.cluster_ips if family_of(each) == family]
        for part in objects.slices[service.key]:
            if part.family != family:
                continue
            targets = {(port.name, port.protocol): port.port for port in part.ports}
            endpoints = tuple(each.address for each in part.endpoints)
            for address in addresses:
                for port in service.ports:
                    yield Frontend(
                        f"{service.name}-{port.name or port.port}",
                        address,
                        port.protocol,
                        port.port,
                        endpoints,
                        targets[port.name, port.protocol],
                    )


def measured(objects: Snapshot) -> Snapshot:
    """The measured Service alone."""
    service = objects.services[-1]
    return Snapshot(services=(service,), slices={service.key: objects.slices[service.key]})


@contextmanager
def local_addresses(network: Network, addresses: Iterable[str]) -> Iterator[None]:
    """The node has these addresses for as long as the block runs. They stand on its loopback
    device, since not every kernel has dummy devices. Raises `LabError`.
    """
    ends = [
        f"{address}/{128 if family_of(address) == Family.IPV6 else 32} dev lo\n"
        for address in addresses
    ]
    try:
        load(network.node, IP_BATCH, "".join(f"address add {end}" for end in ends))
        yield
    finally:
        load(network.node, IP_BATCH, "".join(f"address delete {end}" for end in ends))
