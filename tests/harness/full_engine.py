"""Controllers whose engines have many flows, and what a control socket asks of them."""

import socket
import time

import kbe_nat
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.rows import FileSourceRow, LoopRow, StatusRow
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.daemon.verbs import Verbs
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.rules.memory import Memory

VIP = "172.30.228.255"
STATUS = StatusRow(
    datapath="every-packet",
    datapath_reason="as asked for",
    driver="native",
    queues=[100],
    rules="memory",
    seed=1,
    pid=1,
    version="1",
    seconds=0,
    generation=1,
    service_ports=1,
    # A file whose name is no UTF-8.
    refused=["objects/\udcff.yaml: it is a FIFO, not a file"],
    rules_up_to_date=True,
    drains=[],
    files=[FileSourceRow("objects", 2, 3, 1, 0, 1_700_000_000.0)],
    loops=[LoopRow(1, 1, 0)],
)


def controller_with(
    flows: int,
    limit: int = 262_144,
    *,
    snat: kbe_nat.Snat | None = None,
    options: Options | None = None,
) -> Controller:
    """A controller whose engine has so many UDP flows."""
    engine = kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(max_flows=limit), snat=snat)
    options = options or Options()
    controller = Controller(engine, EveryPacket(Diversion((100, 100)), Memory()), lambda _: options)
    key = ("default", "web")
    part = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "udp", 9876),), (Endpoint("10.0.0.1"),)
    )
    controller.apply(
        Snapshot(1, (Service(*key, (VIP,), (ServicePort("", "udp", 80),)),), {key: (part,)})
    )
    now = time.monotonic_ns()
    for start in range(0, flows, 8192):
        packets = [datagram(number) for number in range(start, min(flows, start + 8192))]
        engine.process_batch(packets, now)
    assert engine.stats().flows == flows
    return controller


def datagram(number: int) -> bytearray:
    """The first packet of a flow; 32,768 flows share a source address."""
    source = bytes((10, 1, 0, 1 + number // 32768))
    header = bytearray.fromhex("450000210000400040110000") + source + socket.inet_aton(VIP)
    words = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, 20, 2))
    words = (words & 0xFFFF) + (words >> 16)
    header[10:12] = (~((words & 0xFFFF) + (words >> 16)) & 0xFFFF).to_bytes(2, "big")
    return (
        header
        + (1024 + number % 32768).to_bytes(2, "big")
        + bytes.fromhex("0050000d0000")
        + b"hello"
    )


def verbs_of(controller: Controller) -> Verbs:
    return Verbs(controller, Subscribers(controller.engine), lambda: STATUS)
