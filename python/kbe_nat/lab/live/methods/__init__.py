"""Methods: each takes a bench, on which a way serves, and yields rows of tables.

An error of a method is its result: the way does not do what is measured. It is told in the table
of what is missing.
"""

from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.methods.connections import capacity, connections
from kbe_nat.lab.live.methods.cpu import cpu
from kbe_nat.lab.live.methods.latency import bulk, latency
from kbe_nat.lab.live.methods.programming import programming
from kbe_nat.lab.live.methods.rates import establishment, throughput
from kbe_nat.lab.live.scenario import (
    AnyMeasure,
    Bulk,
    Capacity,
    Connects,
    Cpu,
    Establishment,
    Latency,
    Programming,
    Throughput,
)

__all__ = ["Bench", "Rows", "measure", "protocol"]


def measure(bench: Bench, what: AnyMeasure) -> Rows:
    """Measure it; rows by table, without the columns of a cell."""
    match what:
        case Throughput():
            return throughput(bench, what)
        case Cpu():
            return cpu(bench, what)
        case Connects():
            return connections(bench, what)
        case Establishment():
            return establishment(bench, what)
        case Capacity():
            return capacity(bench, what)
        case Latency():
            return latency(bench, what)
        case Bulk():
            return bulk(bench, what)
        case Programming():
            return programming(bench, what)


def protocol(what: AnyMeasure) -> str:
    """The protocol of the packets with which it is measured."""
    is_udp = isinstance(what, Throughput | Cpu | Establishment | Latency)
    return "udp" if is_udp else "tcp"
