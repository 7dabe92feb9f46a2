"""`explain` means the same packet whether a daemon or files answer: one rule says by which device a
described packet comes in.
"""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import kbe_nat
from harness.verbs import Ran
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.verbs import explain_live
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.explain import OTHER_INTERFACE, device_of, verdict_of
from kbe_nat.packets import opening
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import plan
from kbe_nat.rules.memory import Memory
from kbe_nat.sources.manifests.manifests import read_manifests

OBJECTS = Path(__file__).parents[2] / "examples/node/objects.yaml"
OPTIONS = Options(node="node-1", node_addresses=("192.0.2.1",))
ENDS = [
    (source, to)
    for source in ("203.0.113.9", "192.0.2.1", "127.0.0.1", "172.17.0.3", "172.30.228.255")
    for to in ("192.0.2.1:30080", "127.0.0.1:30080", "192.0.2.9:30080", "172.30.228.255:80")
]


@pytest.fixture(scope="module")
def controller() -> Controller:
    """A daemon's, without a kernel."""
    datapath = EveryPacket(Diversion((100, 100)), Memory())
    made = Controller(kbe_nat.Engine(seed=0), datapath, lambda _: OPTIONS)
    made.apply(read_manifests([str(OBJECTS)]).snapshot)
    return made


@pytest.mark.parametrize("device", ["", "eth0", "lo"])
@pytest.mark.parametrize(("source", "to"), ENDS)
def test_files_and_a_daemon_say_the_same(
    kbe: Ran, controller: Controller, source: str, to: str, device: str
) -> None:
    flags = ("--iif", device) if device else ()
    node = ("--node", "node-1", "--node-address", "192.0.2.1")
    offline = kbe.json("explain", "-f", OBJECTS, *node, "--from", source, "--to", to, *flags)
    address, _, port = to.partition(":")
    packet = opening("tcp", (source, 49152), (address, int(port)))
    live = msgspec.to_builtins(verdict_of(explain_live(controller, packet, device)))
    for told in (offline, live):
        del told["kernel"]
    offline.pop("apiVersion", None), offline.pop("kind", None)
    assert offline == live


def test_a_packet_comes_by_a_device_unless_it_is_the_nodes_own() -> None:
    planned = plan(read_manifests([str(OBJECTS)]).snapshot, OPTIONS)
    pods = replace(planned, options=replace(OPTIONS, pod_interface="veth+", pod_interfaces=(7,)))
    outside = opening("tcp", ("203.0.113.9", 1), ("192.0.2.1", 30080))
    assert device_of(outside, planned) == OTHER_INTERFACE
    assert device_of(outside, pods, "veth1") == 7
    assert device_of(outside, pods) == OTHER_INTERFACE
    for own in ("192.0.2.1", "127.0.0.1"):
        assert device_of(opening("tcp", (own, 1), ("192.0.2.1", 30080)), pods, "veth1") == 0
