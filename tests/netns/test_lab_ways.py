"""Every way of the lab that this machine has carries real packets, follows a change, and leaves
nothing behind.
"""

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import PODS, VIPS, objects
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.live.ways.programs import largest, load
from kbe_nat.lab.live.ways.way import Served, Way
from kbe_nat.playground.namespaces import call

BOTH = tuple(Family)
ALL_WAYS = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
ABSENT = {"ipvs": "CONFIG_IP_VS", "flowtable": "CONFIG_NF_FLOW_TABLE"}


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as wires:
        yield wires


def leftovers(network: Network) -> dict[str, str]:
    """What a way could leave on the node."""
    node = network.node
    return {
        "nft": node.call("nft", "list", "ruleset"),
        "iptables": legacy_rules(network),
        "addresses": node.call("ip", "-oneline", "address", "show", "scope", "global"),
        "processes": call("ip", "netns", "pids", node.name),
    }


def legacy_rules(network: Network) -> str:
    """Its built-in chains stay for as long as the namespace does."""
    if not shutil.which("iptables-legacy-save"):
        return ""
    lines = [
        line
        for command in ("iptables-legacy-save", "ip6tables-legacy-save")
        for line in network.node.call(command).splitlines()
        if line.startswith(("-A ", ":KUBE-"))
    ]
    return "\n".join(lines)


def usable(way: Way) -> None:
    reason = way.missing()
    if reason:
        pytest.skip(reason)


def assert_carries(network: Network, served: Served, way: Way, family: Family) -> None:
    """Both protocols, as far as the way has them: first packets, later ones and whole streams."""
    to, traffic = served.address(family), network.traffic
    validated = traffic.connect(to, seconds=0.05, validate=True, wait=10)
    assert validated.opened and validated.failed == 0
    assert set(validated.servers) == {"0"}
    assert traffic.connect(to, seconds=0, wait=10).opened == 1
    assert traffic.bulk(to, megabytes=1).bytes == 1 << 20
    with traffic.hold(to, count=20, wait=10) as held:
        assert (held.opened, held.failed) == (20, 0)
    if "udp" in way.protocols:
        pings = traffic.ping(to, count=20, wait=10)
        assert (pings.answered, set(pings.servers)) == (20, {"0"})
        assert traffic.first_packets(to, count=20, wait=10).answered == 20


def test_a_network_answers_from_the_start() -> None:
    """Devices that still ask for duplicates of their addresses hold up the first answers."""
    with Network() as wires:
        for namespace in (wires.node, wires.client, *wires.pods):
            assert namespace.call("ip", "-6", "-oneline", "address", "show", "tentative") == ""


@ALL_WAYS
def test_a_way_carries_both_families_and_leaves_nothing(network: Network, way: Way) -> None:
    usable(way)
    before = leftovers(network)
    families = [family for family in BOTH if family in way.families]
    with way.serve(network, objects(1 if way.is_static else 3, families=families)) as served:
        for family in families:
            assert_carries(network, served, way, family)
        assert 0 < served.programming_seconds < 60
        counters = served.counters()
        assert (counters is not None) == bool(served.queues)
        # The queue stands by for what the kernel does not choose.
        assert counters is None or (counters.packets > 0) == (way.name != "kernel-choice")
        assert all(Path(f"/proc/{pid}").exists() for pid in served.pids)
    assert leftovers(network) == before


@pytest.mark.parametrize(
    "way", [way for way in WAYS.values() if not way.is_static], ids=lambda way: way.name
)
def test_a_changed_endpoint_answers(network: Network, way: Way) -> None:
    usable(way)
    protocol = "udp" if "udp" in way.protocols else "tcp"
    families = [family for family in BOTH if family in way.families]
    with way.serve(network, objects(3, families=families)) as served:
        for pod in (1, 0):
            began = served.change(objects(3, families=families, pods=(pod,)))
            for family in families:
                took = network.first_answer(family, protocol, pod=pod) - began
                assert 0 < took < 60
                answer = network.traffic.connect(VIPS[family], seconds=0, validate=True, wait=10)
                assert set(answer.servers) == {str(pod)}


def forwarded(network: Network, family: Family) -> int:
    """Packets that the node's stack has forwarded."""
    if family is Family.IPV6:
        lines = network.node.call("cat", "/proc/net/snmp6").splitlines()
        return next(int(line.split()[1]) for line in lines if "Ip6OutForwDatagrams" in line)
    names, numbers = network.node.call("cat", "/proc/net/snmp").splitlines()[:2]
    return int(numbers.split()[names.split().index("ForwDatagrams")])


@pytest.mark.parametrize("family", BOTH, ids=lambda family: family.name)
def test_cached_flows_that_have_settled_pass_the_stack_by(network: Network, family: Family) -> None:
    way = WAYS["cached"]
    usable(way)
    traffic = network.traffic
    with way.serve(network, objects(1, families=(family,))) as served:
        to, settle = served.address(family), served.settling_seconds + 2
        work: list[Callable[[float], object]] = [
            lambda seconds: traffic.ping(to, count=500, wait=10, settle=seconds),
            lambda seconds: traffic.bulk(to, megabytes=60, settle=seconds),
        ]
        for run in work:
            before = forwarded(network, family)
            run(0.0)
            fresh = forwarded(network, family) - before
            run(settle)
            settled = forwarded(network, family) - before - fresh
            # Before they have settled some do not, and a packet a second and direction afterwards.
            assert fresh > 500 > 2 * settled
        flows = traffic.flows(to, count=8, settle=settle)
        before = forwarded(network, family)
        assert flows.flood(packets=2000).sent == 2000
        assert forwarded(network, family) - before < 100


@ALL_WAYS
def test_a_way_that_is_missing_says_why(way: Way) -> None:
    reason = way.missing()
    assert reason is None or (len(reason) < 200 and "\n" not in reason and " " in reason)
    if way.name in ABSENT and reason:
        assert ABSENT[way.name] in reason or "apt install" in reason


def test_memory_is_that_of_the_command_or_is_not_known(network: Network) -> None:
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    python = (sys.executable, "-I", "-S", "-c")
    assert load(network.node, (*python, "pass"), "") is None
    much = load(network.node, (*python, f"b'x' * ({ours + 100} << 20)"), "")
    assert much is not None and ours + 100 < much < ours + 150
    assert largest([None, 2.0, 3.0]) == 3.0 and largest([None]) is None


def test_ways_without_a_change_refuse_it(network: Network) -> None:
    with WAYS["forward"].serve(network, objects(1)) as served:
        assert served.address(Family.IPV4) == PODS[Family.IPV4][0]
        with pytest.raises(LabError, match="never changes"):
            served.change(objects(1, pods=(1,)))
