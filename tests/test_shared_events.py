"""Events that every node of a cluster has reason to post, and the objects that they refer to."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from cluster import faults
from cluster.answers import ApiServer, Fault
from cluster.memory import MemoryConnection, drive
from cluster.objects import endpoint_slice, service
from kbe_nat.daemon.cluster_events import ClusterEvents
from kbe_nat.family import Family
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.model import Endpoint, EndpointSlice, Snapshot
from kbe_nat.sources.events import CLUSTER_RATE, SHARED_SECONDS, Event, EventQueue
from kbe_nat.sources.kubernetes.event_posts import EventPosts

NODES = 1000


def claimed(name: str = "a", note: str = "it belongs to default/b") -> Event:
    return Event(("Service", "default", name), "AddressClaimed", "Claim", note, is_shared=True)


def snapshot(nodes: int) -> Snapshot:
    endpoints = tuple(Endpoint(f"10.0.{n >> 8}.{n & 255}", f"n{n}") for n in range(nodes))
    key = ("default", "a")
    return Snapshot(slices={key: (EndpointSlice("a-1", Family.IPV4, endpoints=endpoints),)})


@dataclass
class Cluster:
    """A server, and nodes that post Events to it in driven time."""

    server: ApiServer = field(default_factory=ApiServer)
    nodes: list[EventQueue] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, nodes: int) -> None:
        clock = asyncio.get_running_loop().time
        for number in range(nodes):
            queue = EventQueue(clock=clock, random=Random(number))
            self.nodes.append(queue)
            posts = EventPosts(MemoryConnection(self.server), queue)
            self.tasks.append(asyncio.create_task(posts.run()))

    @property
    def posted(self) -> int:
        return self.server.count("events", "create")

    def outcomes(self) -> dict[str, float]:
        total = Counter[str]()
        for queue in self.nodes:
            total.update(outcomes(queue.metrics))
        return dict(total)


def outcomes(metrics: RestMetrics) -> dict[str, int]:
    *_, values = metrics.values()
    return {labels["outcome"]: int(value) for _, labels, value in values.samples()}


def run(nodes: int, test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def beside() -> None:
        cluster = Cluster()
        cluster.start(nodes)
        await asyncio.sleep(0)
        try:
            await test(cluster)
            assert not any(task.done() for task in cluster.tasks)
        finally:
            for task in cluster.tasks:
                task.cancel()

    drive(beside())


def test_an_event_refers_to_its_object_as_kubectl_looks_for_it() -> None:
    async def test(cluster: Cluster) -> None:
        version = cluster.server.objects.put(service("a"))
        cluster.server.objects.put(
            service("ab"),
            {**service("a"), "metadata": {**service("a")["metadata"], "namespace": "other"}},
        )
        stored = cluster.server.objects.stored["services"]["default", "a"]
        cluster.nodes[0].record(claimed())
        await asyncio.sleep(1)
        [posted] = cluster.server.events
        assert posted["regarding"] == {
            "apiVersion": "v1",
            "kind": "Service",
            "name": "a",
            "namespace": "default",
            "uid": stored["metadata"]["uid"],
            "resourceVersion": str(version),
        }

    run(1, test)


def test_a_slice_that_is_refused_is_referred_to_as_well() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(endpoint_slice("a", ["10.0.0.1"]))
        key = ("EndpointSlice", "default", "a-abcde")
        cluster.nodes[0].record(Event(key, "ObjectRefused", "Read", "x", is_shared=True))
        await asyncio.sleep(1)
        [posted] = cluster.server.events
        stored = cluster.server.objects.stored["endpointslices"]["default", "a-abcde"]
        assert posted["regarding"]["uid"] == stored["metadata"]["uid"]
        assert posted["regarding"]["apiVersion"] == "discovery.k8s.io/v1"

    run(1, test)


def test_of_a_service_that_only_files_have_nothing_is_posted() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.nodes[0].record(claimed())
        await asyncio.sleep(1)
        assert cluster.posted == 0
        assert cluster.outcomes() == {"absent": 1}

    run(1, test)


@pytest.mark.parametrize("code", [403, 404, 406])
def test_where_the_object_cannot_be_asked_for_the_event_goes_without_its_uid(code: int) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        cluster.server.faults.append(Fault(faults.status(code), "services", "list"))
        cluster.nodes[0].record(claimed())
        await asyncio.sleep(1)
        [posted] = cluster.server.events
        assert "uid" not in posted["regarding"]
        assert posted["regarding"]["name"] == "a"

    run(1, test)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_not_asked_for_objects_either(code: int) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"), service("b"))
        cluster.server.faults.append(Fault(faults.status(code), "services", "list"))
        cluster.nodes[0].record(claimed("a"))
        cluster.nodes[0].record(claimed("b"))
        await asyncio.sleep(25)
        assert len(cluster.server.requests) == 1
        await asyncio.sleep(60)
        assert cluster.outcomes() == {"refused": 1, "posted": 1}

    run(1, test)


def test_a_thousand_nodes_tell_one_thing_once_and_slowly() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        for number, queue in enumerate(cluster.nodes):
            ClusterEvents(queue, f"n{number}").update(
                (), [(("default", "a"), "it belongs to default/b")], snapshot(NODES)
            )
        before, most = 0, 0
        for _ in range(int(NODES / CLUSTER_RATE) + 5):
            await asyncio.sleep(1)
            most, before = max(most, cluster.posted - before), cluster.posted
        assert cluster.posted == NODES
        assert most <= 3 * CLUSTER_RATE
        assert len(cluster.server.events) == 1
        assert cluster.outcomes() == {"posted": 1, "known": NODES - 1}

    run(NODES, test)


def test_many_conditions_are_shared_out_among_the_nodes() -> None:
    conditions, nodes = 200, 300

    async def test(cluster: Cluster) -> None:
        names = [f"s{number}" for number in range(conditions)]
        cluster.server.objects.put(*(service(name) for name in names))
        for queue in cluster.nodes:
            queue.spread(nodes * 10)
            for name in names:
                queue.record(claimed(name))
        await asyncio.sleep(SHARED_SECONDS)
        # A tenth of the cluster is here, so it posts a tenth of what all may.
        assert cluster.posted <= 1.2 * SHARED_SECONDS * CLUSTER_RATE / 10
        assert len(cluster.server.events) > 0.95 * conditions
        await asyncio.sleep(SHARED_SECONDS)
        assert cluster.outcomes()["left"] > 0
        assert sum(cluster.outcomes().values()) == conditions * nodes

    run(nodes, test)


def test_one_node_alone_waits_for_nobody() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        ClusterEvents(cluster.nodes[0], "n0").update((), [(("default", "a"), "x")], snapshot(1))
        await asyncio.sleep(0.1)
        assert len(cluster.server.events) == 1

    run(1, test)


def test_a_warning_of_this_node_waits_while_many_may_have_the_same() -> None:
    async def test(cluster: Cluster) -> None:
        for number, queue in enumerate(cluster.nodes):
            queue.spread(100)
            queue.record(Event(("Node", "", f"n{number}"), "RulesNotUpToDate", "Program", "x"))
        await asyncio.sleep(1)
        assert 0 < cluster.posted < 60
        await asyncio.sleep(10)
        assert cluster.posted == 100

    run(100, test)


def test_the_start_of_a_node_is_told_at_once() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.nodes[0].spread(5000)
        ClusterEvents(cluster.nodes[0], "n0").start()
        await asyncio.sleep(0.1)
        assert [each["reason"] for each in cluster.server.events] == ["Starting"]

    run(1, test)


def test_a_condition_that_ceases_in_time_is_not_told() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        events = ClusterEvents(cluster.nodes[0], "n0")
        events.update((), [(("default", "a"), "x")], snapshot(5000))
        events.update((), [], snapshot(5000))
        await asyncio.sleep(SHARED_SECONDS)
        assert cluster.posted == 0

    run(1, test)


def test_notes_that_differ_are_different_events() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        for number, queue in enumerate(cluster.nodes):
            queue.record(claimed(note=f"it belongs to default/{number % 2}"))
        await asyncio.sleep(5)
        notes = {each["note"] for each in cluster.server.events}
        assert notes == {"it belongs to default/0", "it belongs to default/1"}
        assert cluster.outcomes() == {"posted": 2, "known": 4}

    run(6, test)


def test_the_body_is_json_of_a_few_hundred_bytes() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.server.objects.put(service("a"))
        cluster.nodes[0].record(claimed())
        await asyncio.sleep(1)
        body = cluster.server.requests[-1].body
        assert json.loads(body)["reason"] == "AddressClaimed"
        assert len(body) < 1000

    run(1, test)
