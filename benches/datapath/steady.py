"""A minute at four fifths or more of what the native driver can carry: nothing may be lost (RFC
2544, 26.1).

First the capacity, while more comes than can be served; then a steady load below it, with the
kernel's counters of lost packets before and after. Writes a part of benches/RESULTS.md. Needs root.
"""

import argparse
import sys
import time

from benches.datapath.run import BURST, HERE, PATHS
from benches.harness.plan import POD, QUEUE, VIP
from benches.harness.processes import compile_program, run, running
from benches.harness.report import machine, part, table
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.plan import Backend


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long the load lasts")
    # Bursts and sleeps of the sender set it no closer than to a tenth.
    parser.add_argument("--share", type=float, default=0.86, help="of the capacity, about")
    arguments = parser.parse_args()
    traffic = compile_program(HERE / "traffic.c", "traffic", "-lpthread")
    if traffic is None:
        sys.exit("a C compiler (cc) is needed for the traffic")
    with Cluster((Backend(POD, 9876),)) as cluster:
        client = (*cluster.client.prefix, str(traffic))
        with running((*cluster.pods[0].prefix, str(traffic), "echo")), PATHS["native"](cluster):
            run(*client, "flood", VIP, "20", "1000")
            capacity = carried(cluster, client, bursts=2000, pause=0)
            wanted = arguments.share * capacity
            pause = 1.0
            for _ in range(5):
                # The length of a burst and the delay of a sleeper's wakeup show only by trying.
                rate = carried(cluster, client, round(3 * wanted / BURST), round(pause))
                pause = max(1.0, pause + BURST * (1 / wanted - 1 / rate) * 1e6)
            bursts = round(arguments.seconds * wanted / BURST)
            time.sleep(1)
            before = lost(cluster)
            rate = carried(cluster, client, bursts, round(pause))
            lost_packets = lost(cluster) - before
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
        f"{bursts * BURST / rate:.0f}",
    ]
    text = f"{machine()}\n\n{table(columns, [[*row, f'{bursts * BURST:,}', f'{lost_packets:,}']])}"
    part("steady", "make soak", text)
    print(text)
    sys.exit(1 if lost_packets else 0)


def carried(cluster: Cluster, client: tuple[str, ...], bursts: int, pause: int) -> float:
    """Packets a second that have got a verdict, from the first to the last of this load."""
    before, started = handed_out(cluster), time.monotonic()
    run(*client, "flood", VIP, str(bursts), str(pause))
    while counters(cluster)[2]:
        time.sleep(0.01)
    return (handed_out(cluster) - before) / (time.monotonic() - started)


def handed_out(cluster: Cluster) -> int:
    """Packets that our queue has taken and not lost."""
    fields = counters(cluster)
    return fields[7] - fields[6]


def lost(cluster: Cluster) -> int:
    """Packets that did not fit into the queue or its socket."""
    fields = counters(cluster)
    return fields[5] + fields[6]


def counters(cluster: Cluster) -> list[int]:
    """Our queue's line of /proc/net/netfilter/nfnetlink_queue."""
    for line in cluster.node.call("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines():
        fields = [int(word) for word in line.split()]
        if fields[0] == QUEUE:
            return fields
    sys.exit("the queue is gone")


if __name__ == "__main__":
    main()
