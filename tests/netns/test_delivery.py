"""Endpoints with the node's own address (host network): what is delivered to the node keeps its
source.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from harness.programs import PEER_TELLER
from harness.stage import DATAPATHS, FAMILIES, PODS, VIPS, Stage, add_ipv6, connect, served, stage
from kbe_nat._native import NftTables
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.family import Family
from kbe_nat.playground.cluster import CLIENT_ADDRESS, Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

NODE: Final = {Family.IPV4: "10.0.2.15", Family.IPV6: "fd00:2::15"}
CLIENTS: Final = {Family.IPV4: CLIENT_ADDRESS, Family.IPV6: "fd00:2::100"}
KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PROTOCOLS = pytest.mark.parametrize("protocol", list(KINDS))


def plan() -> Plan:
    """A Service of both families whose endpoint is the node, by which everybody is to be
    masqueraded.
    """
    ports = tuple(
        PlannedPort(
            "default",
            f"{protocol}{family}",
            "",
            protocol,
            family,
            (Frontend("external-ip", VIPS[family], 5009),),
            (Backend(NODE[family], 5009),),
            (),
        )
        for family in (Family.IPV4, Family.IPV6)
        for protocol in KINDS
    )
    return Plan(ports, tuple(NODE.values()), options=Options())


@contextmanager
def asked(cluster: Cluster) -> Iterator[None]:
    """Programs on the node that tell everybody which address they see."""
    program = served(cluster.node, PEER_TELLER, *NODE.values())
    try:
        yield
    finally:
        program.kill()
        program.wait()


def seen(where: Namespace, family: Family, protocol: str) -> str:
    """The address that the node's program sees of somebody who asks through the Service."""

    def opened() -> socket.socket:
        return socket.socket(
            socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET, KINDS[protocol]
        )

    with inside(where.path, opened) as own:
        connect(own, (VIPS[family], 5009), 10)
        own.settimeout(10)
        own.send(b"who?")
        return own.recv(100).decode()


@DATAPATHS
@FAMILIES
@PROTOCOLS
def test_what_is_delivered_to_the_node_keeps_its_source(
    cluster: Cluster, datapath: DatapathKind, family: Family, protocol: str
) -> None:
    with stage(cluster, datapath, plan=plan()) as own, asked(cluster):
        assert seen(cluster.client, family, protocol) == CLIENTS[family]
        assert seen(cluster.pods[0], family, protocol) == PODS[family][0]
        assert masquerades(own) == [False, False]
        # The node's own packets do pass POSTROUTING.
        assert seen(cluster.node, family, protocol)
        assert sorted(masquerades(own)) == [False, False, True]


def masquerades(own: Stage) -> list[bool]:
    return [flow.masquerade for flow in own.flows()]


@FAMILIES
@PROTOCOLS
def test_what_the_kernel_delivers_by_itself_keeps_its_source(
    cluster: Cluster, family: Family, protocol: str
) -> None:
    add_ipv6(cluster)
    runner = Commands(cluster.node.prefix)
    datapath = FirstPacket(Diversion((7, 7)), runner, inside(cluster.node.path, NftTables))
    datapath.rebuild(plan())
    datapath.install()
    try:
        with asked(cluster):
            assert seen(cluster.client, family, protocol) == CLIENTS[family]
            assert seen(cluster.pods[0], family, protocol) == PODS[family][0]
    finally:
        datapath.remove()
