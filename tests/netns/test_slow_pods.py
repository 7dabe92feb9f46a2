"""Pods that answer late, on real packets, and strategies that follow each other while it runs."""

import socket
from contextlib import ExitStack
from dataclasses import replace

from harness.daemons import Daemon, curl
from harness.late_answers import late_answers
from harness.programs import SHORT_SERVER
from harness.stage import DATAPATHS, FAMILIES, PODS, VIPS, Stage, plan_of, served, stage
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import Strategy
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.rule import DatapathKind

PLACE, DELAY, CONNECTIONS = 5002, 0.3, 24


def by_latency() -> Plan:
    plan = plan_of()
    ports = tuple(replace(port, strategy=Strategy.PEAK_EWMA) for port in plan.ports)
    return replace(plan, ports=ports)


def flows(own: Stage, family: Family, *, measured: bool = False) -> list[int]:
    """Connections of each pod, or those of them whose connect time is known."""
    name = f"default/short{family}"
    [service] = [each for each in own.engine.stats().services if each.name == name]
    backends = {backend.address: backend for backend in service.backends}
    pods = [backends[pod] for pod in PODS[family]]
    if measured:
        return [pod.connects.count if pod.connects else 0 for pod in pods]
    return [pod.flows for pod in pods]


def connect(own: Stage, family: Family) -> None:
    with own.client(socket.SOCK_STREAM, family, (VIPS[family], PLACE)) as client:
        client.send(b"x")
        client.recv(1)


@DATAPATHS
@FAMILIES
def test_a_slow_pod_gets_a_small_share(
    cluster: Cluster, datapath: DatapathKind, family: Family
) -> None:
    with stage(cluster, datapath, plan=by_latency()) as own, ExitStack() as stack:
        for pod in cluster.pods:
            served(pod, SHORT_SERVER)
        stack.enter_context(late_answers(cluster.pods[0], family, DELAY))

        def is_measured() -> bool:
            connect(own, family)
            return all(flows(own, family, measured=True))

        def is_spared() -> bool:
            before = flows(own, family)
            for _ in range(CONNECTIONS):
                connect(own, family)
            slow, fast = (
                after - former for after, former in zip(flows(own, family), before, strict=True)
            )
            assert slow + fast == CONNECTIONS
            # Of two alike each has a half.
            return slow <= CONNECTIONS / 6

        eventually(is_measured)
        # To a busy machine the other one may be slow for a while.
        assert any(is_spared() for _ in range(3))


def test_strategies_follow_each_other_while_it_runs(daemon: Daemon) -> None:
    daemon.start()
    for strategy in (
        Strategy.RING,
        Strategy.BOUNDED_LOADS,
        Strategy.PEAK_EWMA,
        Strategy.MAGLEV,
        Strategy.RING,
    ):
        answer = daemon.ask("strategy", "set", "default/simpleservice", strategy)
        assert f"{strategy} (1 service port)" in answer
        assert "172.30.228.255" in curl(daemon.cluster)
        assert {row["strategy"] for row in daemon.get("services")} == {strategy}
