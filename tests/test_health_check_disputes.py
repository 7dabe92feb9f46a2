"""Health check ports that another Service has."""

import msgspec
import pytest

from kbe_nat.model import Node, Service, ServicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner

NODE = Node("here", ("10.0.2.15", "fd00:2::15"))
CHECKED = Service(
    namespace="default",
    name="checked",
    cluster_ips=("172.30.0.1",),
    ports=(ServicePort("", "tcp", 80, 30080),),
    is_external_local=True,
    is_load_balancer=True,
    health_check_node_port=30200,
)


def other(
    name: str, *, node_port: int = 0, protocol: str = "tcp", address: str = "172.30.0.2"
) -> Service:
    ports = (ServicePort("", protocol, 80, node_port),)
    return Service(namespace="default", name=name, cluster_ips=(address,), ports=ports)


class Planned:
    """A planner whose Services change step by step."""

    def __init__(self) -> None:
        self.planner = Planner()
        self.generation = 0

    def losses(self, *services: Service) -> list[str]:
        self.generation += 1
        snapshot = Snapshot(self.generation, services, nodes={"here": NODE})
        self.planner.update(snapshot, Options(node="here", node_addresses=NODE.addresses))
        plan = self.planner.plan
        assert {note for _, note in plan.losses} <= {*plan.notes}
        anew = Planner()
        anew.update(snapshot, Options(node="here", node_addresses=NODE.addresses))
        assert anew.plan.losses == plan.losses
        return [note for _, note in plan.losses]


@pytest.fixture
def planned() -> Planned:
    return Planned()


@pytest.mark.parametrize("address", ["172.30.0.2", "fd00::2"])
def test_a_node_port_has_the_packets_of_a_health_check(planned: Planned, address: str) -> None:
    lost = (
        "Service default/checked: health check port 30200 is not answered for it: it belongs to"
        " default/web"
    )
    assert planned.losses(CHECKED) == []
    assert planned.losses(CHECKED, other("web", address=address)) == []
    assert planned.losses(CHECKED, other("web", node_port=30200, address=address)) == [lost]
    # A change of another Service keeps it.
    beside = other("beside", node_port=30300, address="172.30.0.3")
    web = other("web", node_port=30200, address=address)
    assert planned.losses(CHECKED, web, beside) == [lost]
    assert planned.losses(CHECKED, other("web", node_port=30201, address=address), beside) == []
    assert planned.losses(CHECKED, web) == [lost]
    assert planned.losses(CHECKED) == []


def test_other_protocols_leave_health_checks_alone(planned: Planned) -> None:
    assert planned.losses(CHECKED, other("dns", node_port=30200, protocol="udp")) == []


def test_of_two_checks_with_one_port_the_first_by_name_is_answered(planned: Planned) -> None:
    twin = msgspec.structs.replace(
        CHECKED,
        name="also",
        cluster_ips=("172.30.0.9",),
        ports=(ServicePort("", "tcp", 81, 30081),),
    )
    [note] = planned.losses(CHECKED, twin)
    assert note.startswith("Service default/checked: health check port 30200 is not answered")
    assert note.endswith("it belongs to default/also")
    assert planned.losses(CHECKED) == []
