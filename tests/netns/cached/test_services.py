"""What Services ask for while the cache carries their flows."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from harness.cached import Talk, cached_node
from harness.clients import NAMES, endpoints
from harness.daemons import Daemon
from harness.tracked import tracked
from harness.waiting import eventually
from kbe_nat.client import ask
from kbe_nat.daemon.rows import StatsRow
from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.playground.cluster import NODE_ADDRESS, NODE_ADDRESS_6
from kbe_nat.playground.namespaces import inside
from netns.cached.legs import address, ask_all, audit, await_cache, hits, talks, uncarried

NODE_PORTS = {Family.IPV4: 30064, Family.IPV6: 30066}
FRONTENDS = {
    "cluster-ip": {Family.IPV4: ("172.30.0.60", 53), Family.IPV6: ("fd00:30::60", 53)},
    "node-port": {
        Family.IPV4: (NODE_ADDRESS, NODE_PORTS[Family.IPV4]),
        Family.IPV6: (NODE_ADDRESS_6, NODE_PORTS[Family.IPV6]),
    },
    "external-ip": {Family.IPV4: ("203.0.113.8", 53), Family.IPV6: ("fd00:113::8", 53)},
    "load-balancer": {Family.IPV4: ("203.0.113.7", 53), Family.IPV6: ("fd00:113::7", 53)},
}
LATE = {Family.IPV4: "10.0.2.16", Family.IPV6: "fd00:2::16"}
"""Addresses that the node gets later."""
OFF = 'annotations: {kbe-nat.io/cache: "off"}'
TERMINATING = "conditions: {ready: false, serving: true, terminating: true}"
OVER = "conditions: {ready: false, serving: false, terminating: true}"
AFFINITY = """  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 6}}
"""
RANGES = '  loadBalancerSourceRanges: ["192.0.2.0/24", "fd00:99::/64"]\n'


def objects(
    family: Family, *pods: str, spec: str = "", policy: str = "Cluster", more: str = ""
) -> str:
    """A Service with frontends of all kinds."""
    address = {kind: ends[family][0] for kind, ends in FRONTENDS.items()}
    return f"""apiVersion: v1
kind: Service
metadata: {{name: all{family}, {more}}}
spec:
  type: LoadBalancer
  clusterIP: "{address["cluster-ip"]}"
  externalIPs: ["{address["external-ip"]}"]
  externalTrafficPolicy: {policy}
{spec}  ports:
  - {{name: dns, port: 53, targetPort: 9953, nodePort: {NODE_PORTS[family]}, protocol: UDP}}
  - {{name: tcp, port: 53, targetPort: 9953, nodePort: {NODE_PORTS[family]}, protocol: TCP}}
status: {{loadBalancer: {{ingress: [{{ip: "{address["load-balancer"]}"}}]}}}}
---
{endpoints(family, *pods, name="all")}"""


def write(
    daemon: Daemon, *pods: str, spec: str = "", policy: str = "Cluster", more: str = ""
) -> None:
    """Serves both families so, with these pods; those with conditions get nothing new."""
    text = "".join(objects(f, *pods, spec=spec, policy=policy, more=more) for f in Family)
    daemon.write("all.yaml", text)
    wanted = {
        join_address(NAMES[pod.partition(" ")[0]][family], 9953)
        for family in Family
        for pod in pods
        if "conditions" not in pod
    }

    def is_served() -> bool:
        rows = [row for row in daemon.get("endpoints") if row["name"].startswith("all")]
        return {row["backend"] for row in rows if row["state"] != "gone"} >= wanted

    eventually(is_served)


def to(kind: str, family: Family) -> tuple[str, int]:
    return FRONTENDS[kind][family]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with cached_node(tmp_path_factory.mktemp("node")) as made:
        made.start("--hostname-override", "here")
        yield made


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_flows_to_frontends_of_all_kinds_are_cached(daemon: Daemon, policy: str) -> None:
    write(daemon, "a nodeName: here", policy=policy)
    with ExitStack() as stack:
        flows = {kind: stack.enter_context(talks(daemon, partial(to, kind))) for kind in FRONTENDS}
        every = [own for each in flows.values() for own in each]
        await_cache(every)
        assert ask_all(every) == {"a"}
        audit(every)
        for kind, each in flows.items():
            for own in each:
                # Of the client's packets, and of answers.
                row = tracked(daemon.cluster, own).row
                is_kept = row.count(f"={own.source[0]} ") == 2
                assert is_kept == (policy == "Local" or kind == "cluster-ip"), (kind, row)


def is_open(daemon: Daemon, ends: tuple[str, int]) -> bool:
    """Whether a new connection is answered."""

    def connect() -> bool:
        try:
            with socket.create_connection(ends, 1):
                return True
        except OSError:
            return False

    return inside(daemon.cluster.client.path, connect)


def test_ranges_of_sources_are_asked_of_new_connections_alone(daemon: Daemon) -> None:
    write(daemon, "a")
    with talks(daemon, partial(to, "load-balancer")) as flows:
        await_cache(flows)
        write(daemon, "a", spec=RANGES)
        eventually(lambda: not is_open(daemon, to("load-balancer", Family.IPV4)))
        await_cache(flows)
        assert ask_all(flows) == {"a"}
        write(daemon, "a")
        eventually(lambda: is_open(daemon, to("load-balancer", Family.IPV4)))
        await_cache(flows)
        audit(flows)


def test_flows_stay_at_an_endpoint_that_terminates_and_datagrams_leave_one_that_is_over(
    daemon: Daemon,
) -> None:
    write(daemon, "a")
    with talks(daemon, partial(to, "cluster-ip")) as flows:
        await_cache(flows)
        write(daemon, f"a {TERMINATING}", "b")
        with talks(daemon, partial(to, "cluster-ip")) as new:
            assert ask_all(new, 1) == {"b"}
        await_cache(flows)
        assert ask_all(flows) == {"a"}
        audit(flows)
        write(daemon, f"a {OVER}", "b")
        datagrams = [own for own in flows if own.socket.type == socket.SOCK_DGRAM]
        connections = [own for own in flows if own not in datagrams]
        # What was on its way as they moved may be lost.
        eventually(
            lambda: (
                not any(own.is_silent(0.5) for own in datagrams) and ask_all(datagrams, 1) == {"b"}
            )
        )
        await_cache(flows)
        assert (ask_all(datagrams), ask_all(connections)) == ({"b"}, {"a"})


def affinities(daemon: Daemon) -> int:
    (row,) = ask(daemon.socket, "stats", StatsRow)
    return row.affinities


def test_packets_of_a_cached_flow_do_not_prolong_affinity(daemon: Daemon) -> None:
    write(daemon, "a", "b", spec=AFFINITY)
    with talks(daemon, partial(to, "cluster-ip")) as flows:
        names = [own.ask() for own in flows]
        assert affinities(daemon) == len(flows)
        await_cache(flows)

        def is_over() -> bool:
            assert [own.ask() for own in flows] == names
            return affinities(daemon) == 0

        eventually(is_over)
        await_cache(flows)
        assert [own.ask() for own in flows] == names, "each stays where it is"


def late(family: Family) -> tuple[str, int]:
    return LATE[family], NODE_PORTS[family]


def test_an_excluded_service_is_so_at_addresses_that_come_later(daemon: Daemon) -> None:
    write(daemon, "a", more=OFF)
    for family, place in LATE.items():
        address(daemon.cluster.node, "eth0", family, place)
    with talks(daemon) as others, ExitStack() as stack:
        flows: list[Talk] = []
        eventually(lambda: is_open(daemon, late(Family.IPV6)))
        kinds: list[Callable[[Family], tuple[str, int]]] = [partial(to, kind) for kind in FRONTENDS]
        for ends in [late, *kinds]:
            flows.extend(stack.enter_context(talks(daemon, ends)))
        # As long as it takes until others are.
        eventually(lambda: ask_all(flows, 5) == {"a"} and not uncarried(others))
        before = hits(daemon)
        assert ask_all(flows) == {"a"}
        # The others' acknowledgements may come late.
        assert hits(daemon) - before <= len(others)
        assert "kbe-nat.io/cache" in flows[0].explained()
