"""`kbe_nat.load`: an engine from files of objects."""

import re
from pathlib import Path
from typing import Any

import pytest

import kbe_nat
from kbe_nat.packets import Packet, opening
from kbe_nat.policy.options import Options

OBJECTS = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}], internalTrafficPolicy: Local}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.0.3], nodeName: one}
- {addresses: [10.244.1.3], nodeName: two}
---
apiVersion: v1
kind: Node
metadata: {name: one}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: two}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
"""


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    path = tmp_path / "objects.yaml"
    path.write_text(OBJECTS)
    return path


@pytest.mark.parametrize(("node", "backend"), [("one", "10.244.0.3"), ("two", "10.244.1.3")])
def test_the_node_decides_which_endpoints_are_local(objects: Path, node: str, backend: str) -> None:
    engine = kbe_nat.load(objects, node=node)
    verdict = engine.process(opening("tcp", ("10.244.0.9", 1), ("10.96.0.1", 80)), 0)
    assert verdict.packet is not None
    assert Packet.parse(verdict.packet).destination == (backend, 8080)


def test_paths_are_text_or_several_and_seeds_are_the_engines(objects: Path) -> None:
    first, second = (
        kbe_nat.load(paths, node="one", strategy="mh", seed=3)
        for paths in (str(objects), [objects.parent])
    )
    [service] = first.services
    assert (service.name, service.strategy, service.family) == ("default/web", "mh", 4)
    assert [backend.address for backend in service.cluster_backends] == ["10.244.0.3", "10.244.1.3"]
    assert repr(second) == "<Engine: 1 service ports, 0 flows>"


def test_services_are_changed_one_by_one(objects: Path) -> None:
    engine = kbe_nat.load(objects, options=Options(node="one"))
    dns = kbe_nat.ServicePort("default/dns", [kbe_nat.Frontend("fd00::1", 53)], [], family=6)
    engine.update_service(dns)
    assert [service.name for service in engine.services] == ["default/dns", "default/web"]
    engine.remove_service("default/dns", 6)
    assert [service.name for service in engine.services] == ["default/web"]
    with pytest.raises(kbe_nat.ServiceError, match="default/dns"):
        engine.remove_service("default/dns", 6)


def test_what_is_wrong_is_an_error_with_its_place(objects: Path, tmp_path: Path) -> None:
    with pytest.raises(kbe_nat.ArgumentError, match="strategy: 'best' is none of random"):
        kbe_nat.load(objects, strategy="best")
    with pytest.raises(kbe_nat.ArgumentError, match="either"):
        kbe_nat.load(objects, node="one", options=Options())
    with pytest.raises(kbe_nat.FileError, match=r"none\.yaml"):
        kbe_nat.load(tmp_path / "none.yaml")
    objects.write_text(OBJECTS.replace("port: 80,", "port: 0,"))
    with pytest.raises(kbe_nat.ObjectError, match=r"objects\.yaml.*ports\[0\]\.port"):
        kbe_nat.load(objects)
    objects.write_text(OBJECTS.split("---")[1])
    with pytest.raises(kbe_nat.FileError, match="there is no Service in it"):
        kbe_nat.load(objects)


@pytest.mark.parametrize("paths", [None, 5, b"objects.yaml", [5], [None], [b"objects.yaml"]])
def test_paths_are_paths(paths: object) -> None:
    shown = paths[0] if isinstance(paths, list) else paths
    with pytest.raises(TypeError, match=rf"^paths(\[0\])? is a path.*, not {shown!r}$"):
        kbe_nat.load(paths)  # type: ignore[arg-type]


@pytest.mark.parametrize("paths", ["", [], [""], ()])
def test_no_path_is_an_error(paths: object) -> None:
    with pytest.raises(kbe_nat.ArgumentError, match=r"^paths(\[0\])? is a path"):
        kbe_nat.load(paths)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"node_addresses": "192.0.2.1"}, TypeError, "node_addresses is a sequence of addresses"),
        ({"node_addresses": 5}, TypeError, "node_addresses is a sequence of addresses, not 5"),
        ({"node_addresses": ["one"]}, kbe_nat.ArgumentError, r"node_addresses\[0\] is an IP"),
        ({"node_addresses": [5]}, kbe_nat.ArgumentError, r"node_addresses\[0\] is an IP"),
        ({"node": 5}, TypeError, "node is text, not 5"),
        ({"strategy": 5}, kbe_nat.ArgumentError, "strategy: 5 is none of random"),
        ({"options": {}}, TypeError, "options is an Options"),
        ({"seed": True}, TypeError, "seed is a whole number"),
        ({"limits": 5}, TypeError, "limits is a Limits, not 5"),
    ],
)
def test_arguments_are_checked_ahead_of_files(
    arguments: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        kbe_nat.load("there-is-none.yaml", **arguments)  # type: ignore[arg-type]


def test_the_first_error_has_the_others_as_notes(objects: Path) -> None:
    wrong = (
        "apiVersion: v1\nkind: Service\nmetadata: {{name: w{}}}\nspec: {{ports: [{{port: x}}]}}\n"
    )
    objects.write_text("---\n".join(wrong.format(number) for number in range(15)))
    with pytest.raises(kbe_nat.ObjectError, match=r"document 1: Service w0: spec.ports") as raised:
        kbe_nat.load(objects)
    notes = raised.value.__notes__
    assert len(notes) == 11
    assert "document 2: Service w1" in notes[0]
    assert notes[-1] == "and 4 more"


def test_notes_are_warnings(objects: Path) -> None:
    documents = objects.read_text().split("---\n")
    objects.write_text("---\n".join(each for each in documents if "kind: Node\n" not in each))
    with pytest.warns(
        kbe_nat.errors.ObjectWarning, match="node three: there is no such Node object"
    ):
        kbe_nat.load(objects, node="three")


@pytest.mark.parametrize("arguments", [{"node": "three"}, {"options": Options(node="three")}])
def test_a_node_is_one_of_the_objects(objects: Path, arguments: dict[str, Any]) -> None:
    """As `kbe-nat explain --node three` has it."""
    message = "node: three is none of the objects' nodes (one, two)"
    with pytest.raises(kbe_nat.ArgumentError, match=f"^{re.escape(message)}$"):
        kbe_nat.load(objects, **arguments)
