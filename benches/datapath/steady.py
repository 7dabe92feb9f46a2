"""A minute at four fifths or more of what the native driver can carry: nothing may be lost (RFC
2544, 26.1).

First the capacity, while more comes than can be served; then a steady load below it, with the
kernel's counters of lost packets before and after. Writes a part of benches/RESULTS.md. Needs root.
"""

import argparse
import sys
import time

from benches.harness.report import machine, part, table
from kbe_nat.drivers.native import QueueCounters
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import objects
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.live.ways.way import Served

CAPACITY_PACKETS = 1_000_000


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long the load lasts")
    parser.add_argument("--share", type=float, default=0.86, help="of the capacity")
    arguments = parser.parse_args()
    with Network() as network, WAYS["every-packet"].serve(network, objects(1)) as served:
        capacity = carried(served, CAPACITY_PACKETS, None)
        packets = round(arguments.seconds * arguments.share * capacity)
        before = lost(served)
        rate = carried(served, packets, arguments.share * capacity)
        lost_packets = lost(served) - before
    columns = (
        "capacity, kpps",
        "steady load, kpps",
        "of the capacity",
        "seconds",
        "packets",
        "lost",
    )
    row = [
        f"{capacity / 1e3:.0f}",
        f"{rate / 1e3:.0f}",
        f"{rate / capacity:.2f}",
        f"{packets / rate:.0f}",
        f"{packets:,}",
        f"{lost_packets:,}",
    ]
    text = f"{machine()}\n\n{table(columns, [row])}"
    part("steady", "make soak", text)
    print(text)
    sys.exit(1 if lost_packets else 0)


def carried(served: Served, packets: int, rate: float | None) -> float:
    """Packets a second that have got a verdict, from the first to the last of this load."""
    before, started = handed_out(served), time.monotonic()
    flows = served.network.traffic.flows(served.address(Family.IPV4))
    flows.flood(packets=packets, rate=rate)
    while counters(served).waiting:
        time.sleep(0.01)
    return (handed_out(served) - before) / (time.monotonic() - started)


def handed_out(served: Served) -> int:
    """Packets that our queue has taken and not lost."""
    row = counters(served)
    return row.packets - row.socket_dropped


def lost(served: Served) -> int:
    """Packets that did not fit into the queue or its socket."""
    row = counters(served)
    return row.queue_dropped + row.socket_dropped


def counters(served: Served) -> QueueCounters:
    """The kernel's counters of our queue."""
    row = served.counters()
    if row is None:
        sys.exit("the queue is gone")
    return row


if __name__ == "__main__":
    main()
