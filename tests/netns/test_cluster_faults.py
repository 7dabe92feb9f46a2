"""Every fault of an API server while a change is on its way: packets reach a pod at each moment,
and soon the one that the objects name.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster import faults
from cluster.answers import Fault
from cluster.objects import service
from cluster.server import LiveServer
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind
from netns.test_cluster_source import Node, dns, endpoints, node_of

WATCHED = ("nodes", "services", "endpointslices")


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    """First-packet: what the source does is the same in every datapath."""
    server = LiveServer(run_in=partial(inside, cluster.node.path))
    (tmp_path / "token").write_text("sound")
    datapath, user = DatapathKind.FIRST_PACKET, {"tokenFile": "token"}
    with node_of(server, cluster, tmp_path, datapath, user) as place:
        yield place


def follows(here: Node, pod: str, seconds: float = 60) -> None:
    """This pod answers in the end, and some pod at each moment until then."""
    deadline = time.monotonic() + seconds
    while (answers := here.answers()) != {pod}:
        assert answers <= {"a", "b"}, here.watches()
        assert time.monotonic() < deadline, here.watches()


def anew(here: Node) -> None:
    """The server restarts: every version is too old, and the watches of before are cut."""
    here.server.kill()
    here.server.start()


CHANGES: dict[str, Callable[[], faults.Change]] = {
    "f102 410": lambda: faults.status(410),
    "f102 410 as an event": faults.expired,
    "f102 504 too large": faults.too_large,
    "f103 429": lambda: faults.status(429, 1),
    "f103 500": lambda: faults.status(500),
    "f103 503": lambda: faults.status(503, 1),
    "f103 a truncated chunk": lambda: faults.cut(700),
    "f103 a clean end too early": lambda: faults.ended(700),
    "f103 another kind": lambda: faults.body(
        b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}'
    ),
    "f103 a page of HTML": lambda: faults.body(b"<html/>", "text/html"),
    "f104 a slow list": lambda: faults.slow(3),
}


ANSWERS = [(name, True) for name in CHANGES] + [
    (name, False) for name in ("f102 410", "f103 429", "f103 a truncated chunk", "f104 a slow list")
]


@pytest.mark.parametrize(("name", "has_watch_list"), ANSWERS)
def test_f102_f103_f104_an_answer_leaves_what_is_served(
    here: Node, name: str, has_watch_list: bool
) -> None:
    here.start()
    here.serves("a")
    api = here.server.api
    api.has_watch_list = has_watch_list
    # Of each resource the first watch is too old, as after every restart.
    api.faults += [Fault(faults.expired(), each, "watch") for each in WATCHED]
    answers = [Fault(CHANGES[name](), each, "" if has_watch_list else "list") for each in WATCHED]
    api.faults += answers
    here.server.kill()
    here.point("b")
    here.server.start()
    follows(here, "b")
    eventually(here.is_in_step)
    assert not any(each.times for each in answers)
    assert here.answers() == {"b"}


def test_f103_lists_in_gzip_are_served(here: Node) -> None:
    here.server.api.has_watch_list = False
    here.server.api.objects.put(*(service(f"s{each}", "172.31.0.1") for each in range(800)))
    here.start()
    here.serves("a")
    requests = here.server.api.requests
    assert {each.headers.get("Accept-Encoding") for each in requests} == {"gzip"}


@pytest.mark.parametrize(
    "order",
    [lambda lines: lines[::-1], lambda lines: lines * 2, lambda lines: [lines[-1], *lines]],
    ids=["reversed", "twice", "last first"],
)
def test_f104_events_out_of_order_end_in_the_last_state(
    here: Node, order: Callable[[list[bytes]], list[bytes]]
) -> None:
    here.server.api.faults.append(Fault(faults.shuffled(order, 4), "endpointslices"))
    here.start()
    here.serves("a")
    here.point("b")
    here.point("a")
    here.point("b")
    follows(here, "b")
    eventually(here.is_in_step)
    assert here.answers() == {"b"}


def test_f104_an_etcd_that_went_back_in_time_is_followed(here: Node) -> None:
    here.start()
    here.serves("a")
    objects = here.server.api.objects
    backup = objects.backup()
    here.point("b")
    here.serves("b")
    version = objects.version
    here.server.kill()
    objects.restore(*backup)
    # The numbers of before are used again, for other states.
    while objects.version <= version:
        objects.tick()
    objects.restart()
    here.server.start()
    follows(here, "a")
    eventually(here.is_in_step)


def test_f104_a_token_that_rotates_costs_no_packet(here: Node) -> None:
    here.start()
    here.serves("a")
    here.server.api.tokens = {"rotated"}
    anew(here)
    eventually(lambda: any("401" in row["reason"] for row in here.watches().values()))
    assert here.answers() == {"a"}
    here.point("b")
    (here.daemon.folder / "token").write_text("rotated")
    follows(here, "b")
    eventually(here.is_in_step)


def test_f100_a_certificate_that_ends_costs_no_packet(here: Node) -> None:
    here.start()
    here.serves("a")
    sound = here.server.context
    here.server.context = here.server.certificates.server_context(is_expired=True)
    anew(here)
    eventually(lambda: all("has expired" in row["reason"] for row in here.watches().values()))
    assert here.answers() == {"a"}
    here.server.context = sound
    here.point("b")
    anew(here)
    follows(here, "b")


def test_a_role_that_may_only_list_follows_all_the_same(here: Node) -> None:
    here.server.api.forbidden = {("watch", resource) for resource in WATCHED}
    here.start()
    here.serves("a")
    here.point("b")
    follows(here, "b", seconds=90)
    assert any("cannot watch" in row["reason"] for row in here.watches().values())


def test_f105_a_wrong_object_leaves_its_own_service_alone(here: Node) -> None:
    here.start()
    here.serves("a")
    wrong = service("wrong", "172.30.0.99")
    wrong["spec"]["ports"] = [{"port": 65536}]
    slice_ = endpoints(Family.IPV4, "b")
    slice_["metadata"]["name"] = "wrong-slice"
    slice_["endpoints"][0]["addresses"] = ["127.0.0.1", "10.0.0.011"]
    here.server.api.objects.put(wrong, slice_)
    eventually(lambda: here.watches()["services"]["events"] >= 1)
    assert here.answers() == {"a"}
    here.point("b")
    follows(here, "b")


def test_f104_a_service_is_made_anew_and_a_slice_changes_its_service(here: Node) -> None:
    here.start()
    here.serves("a")
    objects = here.server.api.objects
    # The same name with another uid and another address, and back again.
    for family in Family:
        objects.delete("Service", f"dns{family}")
        value = dns(family)
        value["metadata"]["uid"] = "another"
        objects.put(value)
    here.serves("a")
    # A slice that says another Service leaves this one without endpoints.
    for family in Family:
        moved = endpoints(family, "a")
        moved["metadata"]["labels"]["kubernetes.io/service-name"] = f"other{family}"
        objects.put(moved)
    here.serves("")
    for family in Family:
        objects.put(endpoints(family, "b"))
    here.serves("b")
