"""Which frontends' flows are looked at after a change."""

from dataclasses import replace

from kbe_nat.datapath.courses import Courses
from kbe_nat.family import Family
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort

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
    return Plan(ports, addresses, addresses, ())


def test_f122_what_is_new_is_looked_at() -> None:
    own = Courses()
    own.follow(plan(port()))
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}
    assert own.take_touched() == set(), "once"
    own.follow(plan(port()))
    assert own.take_touched() == set(), "nothing has changed"
    external = replace(
        port(), frontends=(*port().frontends, Frontend("external-ip", "198.51.100.1", 53))
    )
    own.follow(plan(external))
    assert own.take_touched() == {("198.51.100.1", "udp", 53)}
    own.follow(plan(external, addresses=("10.0.2.15", "10.0.2.16")))
    assert own.take_touched() == {("10.0.2.16", "udp", 30053)}


def test_f123_f124_what_has_lost_an_endpoint_is_looked_at() -> None:
    own = Courses()
    own.follow(plan(port()))
    own.take_touched()
    own.follow(plan(port(cluster=(A, B, C))))
    assert own.take_touched() == set(), "whoever comes takes nothing away"
    own.follow(plan(replace(port(cluster=(A, B)), serving_backends=(C,))))
    assert own.take_touched() == set(), "it serves still"
    own.follow(plan(replace(port(cluster=(A,)), local_backends=(B,))))
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}
    own.follow(plan(port(cluster=(A,))))
    own.follow(plan(port(cluster=(A, C))))
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}, "what was not taken yet"
    own.follow(plan(port(cluster=())))
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}
    own.follow(plan())
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}


def test_another_name_is_no_other_course() -> None:
    own = Courses()
    own.follow(plan(port()))
    own.take_touched()
    own.follow(plan(port("renamed")))
    assert own.take_touched() == set()
    own.follow(plan(port("renamed", (B, C))))
    assert own.take_touched() == {CLUSTER_IP, NODE_PORT}
