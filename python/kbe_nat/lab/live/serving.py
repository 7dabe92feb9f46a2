"""A driver of ours on the node, as a process of its own: `python -m kbe_nat.lab.live.serving KIND`.

Its input is a length (8 bytes, big-endian) and so many bytes, again and again: a pickled snapshot
first, later changes. It answers each with a line: the moment (`time.monotonic`) at which it had the
objects, parsed, and the most memory in MB that it has taken until they were served. It ends with
its input, and takes its rules away before.
"""

import gc
import pickle
import select
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import kbe_nat
from kbe_nat._native import FlowCache, NftTables
from kbe_nat.control.controller import Controller
from kbe_nat.datapath.cached import Cached, CacheSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import (
    SPIN_SECONDS,
    NativeQueue,
    processors_of,
    queues_for_processors,
)
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.lab.live.network import NODE_ADDRESSES
from kbe_nat.model import Choice, EndpointSlice, ServiceKey, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import plan
from kbe_nat.reference.nat import Backend, Frontend, Reference, ServicePort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import InstallerName, installation, probe
from kbe_nat.rules.rule import DatapathKind, Marks

KERNEL_CHOICE: Final = "kernel-choice"
OFFLOADING: Final = (DatapathKind.FIRST_PACKET, KERNEL_CHOICE, DatapathKind.CACHED)
"""Kinds whose flows the kernel carries."""
QUEUE: Final = 7
QUEUE_LENGTH: Final = 65_535


class _Packet(Protocol):
    """A packet of the queue package."""

    indev: int

    def get_payload(self) -> bytes: ...
    def set_payload(self, payload: bytes) -> None: ...
    def get_mark(self) -> int: ...
    def set_mark(self, mark: int) -> None: ...
    def drop(self) -> None: ...
    def accept(self) -> None: ...


@dataclass(frozen=True)
class Change:
    """The slices of a Service, in place of those before."""

    service: ServiceKey
    slices: tuple[EndpointSlice, ...]


def main() -> None:
    """Serve until the input ends."""
    kind = sys.argv[1]
    messages = _messages()
    snapshot = next(messages)
    gc.collect()
    started = time.monotonic()
    if kind == "netfilterqueue-reference":
        _serve_reference(snapshot, started)
        return
    with ExitStack() as stack:
        controller = _controller(kind, stack, snapshot)
        _report(started)
        for change in messages:
            slices = {**controller.snapshot.slices, change.service: change.slices}
            snapshot = Snapshot(2, controller.snapshot.services, slices)
            started = time.monotonic()
            controller.apply(snapshot, {change.service})
            _report(started)


def _controller(kind: str, stack: ExitStack, snapshot: Snapshot) -> Controller:
    """Serves the snapshot until the stack is closed."""
    engine, commands = kbe_nat.Engine(seed=1), Commands()
    # As the daemon has them: one for each processor where packets only ask for a choice.
    numbers = queues_of(kind)
    diversion = Diversion((numbers[0], numbers[-1]))
    datapath: FirstPacket | Cached | EveryPacket
    if kind in OFFLOADING:
        choice = Choice.KERNEL if kind == KERNEL_CHOICE else Choice.ENGINE
        datapath = FirstPacket(diversion, commands, NftTables(), choice=choice)
        if kind == DatapathKind.CACHED:
            settings = CacheSettings()
            datapath = Cached(datapath, FlowCache(max_flows=2 * settings.max_flows), settings)
    else:
        # As the daemon chooses it.
        datapath = EveryPacket(diversion, probe(InstallerName.AUTO, commands)[0])
    queues: list[AbstractContextManager[Any]] = [
        NetfilterQueue(number, max_length=QUEUE_LENGTH)
        if kind == "netfilterqueue-engine"
        else NativeQueue(
            number,
            backend_ids=datapath.backend_ids,
            max_length=QUEUE_LENGTH,
            fail_open=kind in OFFLOADING,
            spin=SPIN_SECONDS if len(numbers) == 1 else 0.0,
        )
        for number in numbers
    ]
    options = Options(node_addresses=NODE_ADDRESSES)
    controller = Controller(engine, datapath, lambda _: options)
    drivers = [stack.enter_context(queue) for queue in queues]
    stack.enter_context(datapath.following(engine))
    controller.apply(snapshot)
    stack.callback(controller.remove)
    controller.install()
    for place, driver in enumerate(drivers):
        cpus = processors_of(place, len(numbers)) if len(numbers) > 1 else frozenset()
        stack.enter_context(LoopThread(engine, driver, cpus))
    return controller


def queues_of(kind: str) -> range:
    """The numbers of a kind's queues."""
    return range(QUEUE, QUEUE + (queues_for_processors() if kind in OFFLOADING else 1))


def _serve_reference(snapshot: Snapshot, started: float) -> None:
    """A callback per packet, and the NAT in plain Python, as such scripts usually are."""
    from netfilterqueue import NetfilterQueue as Package

    nat, marks = Reference(), Marks()
    planned = plan(snapshot, Options(node_addresses=NODE_ADDRESSES))
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
            for port in planned.ports
        ]
    )

    def answer(packet: _Packet) -> None:
        verdict = nat.process(packet.get_payload(), time.monotonic_ns(), interface=packet.indev)
        if verdict.action == "translate" and verdict.packet is not None:
            packet.set_payload(verdict.packet)
            packet.set_mark(packet.get_mark() | marks.flow)
        if verdict.action == "drop":
            packet.drop()
        else:
            packet.accept()

    rules = rule_sets(planned, (QUEUE, QUEUE))
    queue = Package()
    queue.bind(QUEUE, answer, QUEUE_LENGTH)
    with installation(probe(InstallerName.AUTO, Commands())[0], rules):
        _report(started)
        while True:
            ready, _, _ = select.select([queue.get_fd(), sys.stdin], [], [])
            if sys.stdin in ready:
                return
            queue.run(block=False)


def _messages() -> Iterator[Any]:
    source = sys.stdin.buffer
    while head := source.read(8):
        yield pickle.loads(source.read(int.from_bytes(head)))


def _report(started: float) -> None:
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(started, round(peak, 1), flush=True)


if __name__ == "__main__":
    main()
