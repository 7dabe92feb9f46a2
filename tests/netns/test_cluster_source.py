"""The daemon in a node's namespace, fed by a test API server on the node's loopback: what is served
shows by packets to the pods.
"""

import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster import faults
from cluster.answers import Fault
from cluster.objects import endpoint_slice, node, service
from cluster.server import LiveServer
from harness.clients import NAMES, PORT, VIPS, named
from harness.daemons import Daemon
from harness.stage import add_ipv6, connect
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
SILENT = ""


@dataclass
class Node:
    """A daemon that follows a server."""

    daemon: Daemon
    server: LiveServer

    def start(self, *arguments: str) -> None:
        self.daemon.start("--node", "node-1", *arguments)

    def answers(self) -> set[str]:
        """Who answers, to both protocols of both families; the empty name for nobody."""
        asked = [(self.daemon.cluster, family, kind) for family in Family for kind in KINDS]
        with ThreadPoolExecutor(len(asked)) as pool:
            return set(pool.map(lambda words: ask(*words), asked))

    def serves(self, *pods: str) -> None:
        """Waits until these pods answer, and no other."""
        eventually(lambda: self.answers() <= {*pods} and self.answers() == {*pods})

    def watches(self) -> dict[str, Any]:
        return {row["resource"]: row for row in self.daemon.get("status")["watches"]}

    def is_in_step(self) -> bool:
        return {row["phase"] for row in self.watches().values()} == {"in step"}

    def point(self, *pods: str) -> None:
        """Let these pods be the endpoints."""
        for family in Family:
            self.server.api.objects.put(endpoints(family, *pods))


def ask(cluster: Cluster, family: Family, kind: socket.SocketKind) -> str:
    """Who answers. Datagrams may be lost as their endpoint leaves, or wait for a busy machine: they
    are sent again.
    """
    is_datagram = kind == socket.SOCK_DGRAM

    def answer() -> str:
        version = socket.AF_INET6 if family is Family.IPV6 else socket.AF_INET
        with socket.socket(version, kind) as client:
            try:
                connect(client, (VIPS[family], PORT), 5)
                client.settimeout(1 if is_datagram else 5)
                for _ in range(5 if is_datagram else 1):
                    client.send(b"?\n")
                    with suppress(TimeoutError):
                        return client.recv(100).decode().split()[0]
            except (OSError, IndexError):
                pass
        return SILENT

    return inside(cluster.client.path, answer)


def dns(family: Family) -> dict[str, Any]:
    value = service(f"dns{family}", VIPS[family])
    value["spec"]["ports"] = [
        {"name": protocol, "port": PORT, "protocol": protocol.upper(), "targetPort": 9953}
        for protocol in ("udp", "tcp")
    ]
    return value


def endpoints(family: Family, *pods: str) -> dict[str, Any]:
    value = endpoint_slice(f"dns{family}", [NAMES[pod][family] for pod in pods])
    value["addressType"] = f"IPv{family}"
    value["ports"] = [
        {"name": protocol, "port": 9953, "protocol": protocol.upper()}
        for protocol in ("udp", "tcp")
    ]
    return value


@contextmanager
def node_of(
    server: LiveServer,
    cluster: Cluster,
    folder: Path,
    datapath: DatapathKind,
    user: Mapping[str, Any] | None = None,
) -> Iterator[Node]:
    """A node whose daemon will follow the server, as this user of the kubeconfig; pod a serves."""
    add_ipv6(cluster)
    named(cluster)
    with server:
        server.api.objects.put(node("node-1"))
        for family in Family:
            server.api.objects.put(dns(family), endpoints(family, "a"))
        kubeconfig = server.kubeconfig(folder / "kubeconfig", user)
        with Daemon(cluster, folder, datapath) as daemon:
            daemon.sources = ("--kubeconfig", str(kubeconfig))
            yield Node(daemon, server)


@pytest.fixture(params=list(DatapathKind), ids=str)
def here(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    server = LiveServer(run_in=partial(inside, cluster.node.path))
    with node_of(server, cluster, tmp_path, request.param) as place:
        yield place


def test_it_serves_what_the_server_has_and_follows_it(here: Node) -> None:
    here.start()
    here.serves("a")
    here.point("b")
    here.serves("b")
    assert here.is_in_step()
    here.point()
    here.serves(SILENT)
    here.point("a")
    here.serves("a")
    for family in Family:
        here.server.api.objects.delete("Service", f"dns{family}")
    here.serves(SILENT)
    assert here.daemon.end() < 5


def test_f100_an_outage_leaves_what_is_served(here: Node) -> None:
    here.start()
    here.serves("a")
    here.server.kill()
    eventually(lambda: {row["phase"] for row in here.watches().values()} == {"stale"})
    eventually(lambda: all("refused" in row["reason"] for row in here.watches().values()))
    # A line for each watch, with its age and the reason.
    [line] = [row for row in here.daemon.ask("get", "status").splitlines() if "services" in row]
    assert re.search(r"services +stale +\d+s +2 .*refused", line)
    here.serves("a")
    here.point("b")
    here.server.starting_seconds = 1.0
    here.server.start()
    here.serves("b")
    eventually(here.is_in_step)
    assert here.daemon.log.count("services: stale: ") == 1


def test_f100_a_server_that_was_killed_is_followed_within_3_s_of_its_first_good_answer(
    here: Node,
) -> None:
    here.start()
    here.serves("a")
    here.server.kill()
    eventually(lambda: not here.is_in_step())
    here.point("b")
    # So long a real server refused everyone: its cache of rights was empty.
    here.server.starting_seconds = 1.3
    here.server.start()
    here.serves("b")
    eventually(here.is_in_step)
    behind = max(row["since"] for row in here.watches().values()) - here.server.first_good
    assert behind < 3


def test_f101_a_daemon_that_starts_without_the_server_serves_the_last_objects(
    here: Node,
) -> None:
    here.start()
    here.serves("a")
    here.daemon.end()
    here.server.kill()
    here.serves(SILENT)
    here.start()
    here.serves("a")
    assert "the objects of the last run are served" in here.daemon.log
    here.point("b")
    here.server.start()
    here.serves("b")


def test_f101_a_daemon_that_waits_for_objects_leaves_the_kernel_as_it_was(here: Node) -> None:
    if here.daemon.datapath is DatapathKind.EVERY_PACKET:
        pytest.skip("no rules of every-packet serve without a daemon")
    here.start()
    here.serves("a")
    here.daemon.end(signal.SIGUSR2)
    (here.daemon.folder / "state-objects").unlink()
    here.server.kill()
    here.start()
    eventually(lambda: all(row["failures"] for row in here.watches().values()))
    here.serves("a")
    here.server.start()
    eventually(here.is_in_step)
    here.serves("a")


@pytest.mark.parametrize(
    "fault",
    [
        faults.empty_list(),
        faults.body(b'{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":'),
        faults.cut(500),
    ],
    ids=["empty", "truncated", "cut"],
)
def test_f103_no_answer_wipes_the_node(here: Node, fault: faults.Change) -> None:
    here.start()
    here.serves("a")
    here.server.api.faults += [
        Fault(faults.expired(), "services", "watch"),
        Fault(fault, "services"),
    ]
    here.server.kill()
    here.server.start()
    eventually(lambda: not here.server.api.faults[-1].times)
    for _ in range(3):
        assert here.answers() == {"a"}
    eventually(here.is_in_step)
    here.point("b")
    here.serves("b")


def test_files_stand_beside_the_server(here: Node) -> None:
    objects = here.daemon.folder / "objects"
    objects.mkdir()
    extra = {**dns(Family.IPV4), "apiVersion": "v1"}
    extra["metadata"] = {"name": "extra"}
    extra["spec"]["clusterIP"] = "172.30.0.99"
    extra["spec"]["clusterIPs"] = ["172.30.0.99"]
    (objects / "extra.json").write_text(json.dumps(extra))
    here.daemon.sources += ("--manifests", str(objects))
    here.start()
    here.serves("a")
    names = {row["service"] for row in here.daemon.get("services")}
    assert names == {
        f"default/{name}:{protocol}"
        for name in ("dns4", "dns6", "extra")
        for protocol in ("udp", "tcp")
    }


def test_operators_see_events_on_the_node_and_on_a_service_without_its_address(here: Node) -> None:
    events = here.server.api.events
    here.start()
    here.serves("a")
    eventually(lambda: [each["reason"] for each in events] == ["Starting"])
    assert events[0]["regarding"]["name"] == "node-1"
    twin = dns(Family.IPV4)
    # The older Service keeps the address.
    twin["metadata"] |= {"name": "twin", "creationTimestamp": "2026-11-28T10:00:00Z"}
    here.server.api.objects.put(twin)
    eventually(lambda: len(events) > 1)
    here.point("b")
    here.serves("b")
    _, claimed = events
    assert (claimed["reason"], claimed["regarding"]["name"]) == ("AddressClaimed", "twin")
    assert f"{VIPS[Family.IPV4]}:{PORT}" in claimed["note"] and "default/dns4" in claimed["note"]
    stored = here.server.api.objects.stored["services"]["default", "twin"]["metadata"]
    assert claimed["regarding"]["uid"] == stored["uid"]
    assert claimed["regarding"]["resourceVersion"] == stored["resourceVersion"]


def test_events_on_an_address_of_files_are_about_the_servers_service_alone(here: Node) -> None:
    events = here.server.api.events
    objects = here.daemon.folder / "objects"
    objects.mkdir()
    for name, family, created in (
        ("younger", Family.IPV4, "2026-11-28T10:00:00Z"),
        ("older", Family.IPV6, ""),
    ):
        twin = {**dns(family), "apiVersion": "v1"}
        twin["metadata"] = {"name": name, **({"creationTimestamp": created} if created else {})}
        (objects / f"{name}.json").write_text(json.dumps(twin))
    here.daemon.sources += ("--manifests", str(objects))
    here.start()
    # Of IPv4 the server's Service has the address, of IPv6 the one of the file.
    eventually(lambda: {each["reason"] for each in events} == {"Starting", "AddressClaimed"})
    assert {each["regarding"]["name"] for each in events} == {"node-1", "dns6"}
    [claim] = [each for each in events if each["reason"] == "AddressClaimed"]
    assert "default/older" in claim["note"]
    eventually(lambda: "Service default/younger:udp" in here.daemon.log)


def test_a_role_without_events_serves_all_the_same(here: Node) -> None:
    here.server.api.forbidden.add(("create", "events"))
    here.start()
    here.serves("a")
    eventually(lambda: "the role lacks the verb create for events" in here.daemon.log)
    assert here.is_in_step()
    assert not here.server.api.events
