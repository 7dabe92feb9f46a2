"""One of our ways to take packets out of a queue, as a process of its own: `forwarder
native|first-packet|netfilterqueue-engine|netfilterqueue-reference`.

Runs in the node's namespace, says "ready", and ends with its standard input.
"""

import sys
import time
from typing import Any

import kbe_nat
from benches.harness.plan import PLAN, QUEUE
from kbe_nat._native import NftTables
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.engine_tables import native_tables
from kbe_nat.reference.nat import Backend, Frontend, Reference, ServicePort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import Marks


def main() -> None:
    """Serve until nobody is there any more."""
    path = sys.argv[1]
    if path == "netfilterqueue-reference":
        reference()
        return
    engine = kbe_nat.Engine(seed=1)
    if path == "first-packet":
        first_packet(engine)
        return
    engine.replace_services(*native_tables(PLAN))
    queue = (
        NativeQueue(QUEUE, max_length=65535)
        if path == "native"
        else NetfilterQueue(QUEUE, max_length=65535)
    )
    with queue, LoopThread(engine, queue):
        print("ready", flush=True)
        sys.stdin.read()


def first_packet(engine: kbe_nat.Engine) -> None:
    """With its rules, which go with it."""
    datapath = FirstPacket(Diversion((QUEUE, QUEUE)), Commands(), NftTables())
    queue = NativeQueue(QUEUE, backend_ids=datapath.backend_ids, max_length=65535, fail_open=True)
    datapath.rebuild(PLAN)
    engine.replace_services(*native_tables(PLAN))
    with queue, datapath.following(engine):
        datapath.install()
        with LoopThread(engine, queue):
            print("ready", flush=True)
            sys.stdin.read()
        datapath.remove()


def reference() -> None:
    """A callback per packet, and the NAT in plain Python, as such scripts usually are."""
    from netfilterqueue import NetfilterQueue as Package

    nat, marks = Reference(), Marks()
    nat.replace_services(
        [
            ServicePort(
                port.name,
                [
                    Frontend(frontend.address, frontend.port, frontend.kind)
                    for frontend in port.frontends
                ],
                [Backend(backend.address, backend.port) for backend in port.cluster_backends],
                port.protocol,
            )
            for port in PLAN.ports
        ]
    )

    def answer(packet: Any) -> None:
        verdict = nat.process(packet.get_payload(), time.monotonic_ns(), interface=packet.indev)
        if verdict.action == "translate" and verdict.packet is not None:
            packet.set_payload(verdict.packet)
            packet.set_mark(packet.get_mark() | marks.flow)
        if verdict.action == "drop":
            packet.drop()
        else:
            packet.accept()

    queue = Package()
    queue.bind(QUEUE, answer, 65535)
    print("ready", flush=True)
    queue.run()


if __name__ == "__main__":
    main()
