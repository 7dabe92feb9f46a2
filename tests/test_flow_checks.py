"""The frontends whose flows are checked after a change."""

from dataclasses import replace

from kbe_nat.datapath.flow_checks import FlowChecks
from kbe_nat.family import Family
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.plan import Backend, Frontend, FrontendKey, Plan, PlannedPort

A, B, C = (Backend(f"172.17.0.{number}", 9953) for number in (3, 4, 5))
CLUSTER_IP = ("172.30.0.53", "udp", 53)
NODE_PORT = ("10.0.2.15", "udp", 30053)


def port(
    name: str = "dns", cluster: tuple[Backend, ...] = (A, B), *, number: int = 53
) -> PlannedPort:
    frontends = (
        Frontend("cluster-ip", "172.30.0.53", number),
        Frontend("node-port", "", number + 30_000),
    )
    return PlannedPort("default", name, "", "udp", Family.IPV4, frontends, cluster, ())


def plan(*ports: PlannedPort, addresses: tuple[str, ...] = ("10.0.2.15",)) -> Plan:
    return Plan(ports, addresses, NodePorts(addresses))


class Following:
    """Flow checks that follow whole plans."""

    def __init__(self) -> None:
        self.checks = FlowChecks()
        self.plan = Plan()

    def follow(self, plan: Plan) -> None:
        self.checks.apply(PlanDelta.between(self.plan, plan))
        self.plan = plan

    def take(self) -> set[FrontendKey] | None:
        return self.checks.take()


def test_f122_what_is_new_is_checked() -> None:
    following = Following()
    following.follow(plan(port()))
    assert following.take() == {CLUSTER_IP, NODE_PORT}
    assert following.take() == set(), "once"
    following.follow(plan(port()))
    assert following.take() == set(), "nothing has changed"
    external = replace(
        port(), frontends=(*port().frontends, Frontend("external-ip", "198.51.100.1", 53))
    )
    following.follow(plan(external))
    assert following.take() == {("198.51.100.1", "udp", 53)}
    following.follow(plan(external, addresses=("10.0.2.15", "10.0.2.16")))
    assert following.take() == {("10.0.2.16", "udp", 30053)}


def test_f123_f124_what_has_lost_a_backend_is_checked() -> None:
    following = Following()
    following.follow(plan(port()))
    following.take()
    following.follow(plan(port(cluster=(A, B, C))))
    assert following.take() == set(), "whoever comes takes nothing away"
    following.follow(plan(replace(port(cluster=(A, B)), serving_backends=(C,))))
    assert following.take() == set(), "it serves still"
    following.follow(plan(replace(port(cluster=(A,)), local_backends=(B,))))
    assert following.take() == {CLUSTER_IP, NODE_PORT}
    following.follow(plan(port(cluster=(A,))))
    following.follow(plan(port(cluster=(A, C))))
    assert following.take() == {CLUSTER_IP, NODE_PORT}, "what was not taken yet"
    following.follow(plan(port(cluster=())))
    assert following.take() == {CLUSTER_IP, NODE_PORT}
    following.follow(plan())
    assert following.take() == {CLUSTER_IP, NODE_PORT}


def test_a_frontend_of_another_name_is_the_same() -> None:
    following = Following()
    following.follow(plan(port()))
    following.take()
    following.follow(plan(port("renamed")))
    assert following.take() == set()
    following.follow(plan(port("renamed", (B, C))))
    assert following.take() == {CLUSTER_IP, NODE_PORT}


def test_after_a_rebuild_all_flows_are_checked() -> None:
    following = Following()
    following.follow(plan(port()))
    following.checks.rebuild(plan(port()))
    assert following.take() is None
    assert following.take() == set(), "once"
