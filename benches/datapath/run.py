"""Ways from a client through a node to a pod, side by side: forwarding, the kernel's NAT, queues.

Every way is set up and measured in each round, in turn, so that a slow minute of the machine hits
all; the medians of the rounds count. Writes benches/results/datapath.json and a part of
benches/RESULTS.md. Needs root.

CPU per packet is thread time: the sender's, in which softirq work up to the queue or to the
receiver runs, and the daemon's, in which the packet travels on after its verdict. The
sender's own cost, up to a drop in the raw table, is subtracted.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benches.harness.plan import PLAN, POD, QUEUE, VIP
from benches.harness.processes import ROOT, compile_program, cpu_ns, run, running
from benches.harness.report import figure, machine, part, table
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.plan import Backend
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import installation
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.rule import Marks

HERE: Final = Path(__file__).parent
FORWARDER: Final = ("-m", "benches.datapath.forwarder")
PATIENCE: Final = 10.0
"""Seconds in which our processes take their rules away."""
RESULTS: Final = ROOT / "benches/results/datapath.json"
FIELDS: Final = (
    "cpu_ns_net",
    "core_kpps",
    "tcp_gbit_s",
    "rtt_us_p50",
    "rtt_us_p99",
    "connects_per_s",
    "connect_us_p50",
    "connect_us_p99",
)
CONNECTS: Final = ("connects_per_s", "connect_us_p50", "connect_us_p99")
PAIR: Final = ("first-packet", "nft-dnat")
"""Paths that should cost the same."""
BURST: Final = 512
Row = dict[str, Any]

LOAD: Final[dict[str, tuple[int, int, int]]] = {
    # Bursts, the pause behind each in µs, and megabytes.
    "netfilterqueue-reference": (20, 150_000, 4),
    "netfilterqueue-engine": (60, 20_000, 40),
}
USUAL: Final = (200, 2_500, 2_000)


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is measured")
    parser.add_argument(
        "--paths", nargs="+", choices=list(PATHS), default=list(PATHS), help="ways to measure"
    )
    arguments = parser.parse_args()
    paths = [
        path
        for path in arguments.paths
        if path != "c-nfq" or compile_program(ROOT / "benches/yardstick/nfq.c", "nfq")
    ]
    traffic = compile_program(HERE / "traffic.c", "traffic", "-lpthread")
    if traffic is None:
        sys.exit("a C compiler (cc) is needed for the traffic")
    rounds: dict[str, list[Row]] = {path: [] for path in paths}
    with Cluster((Backend(POD, 9876),)) as cluster, ExitStack() as stack:
        for server in ("echo", "sink", "accept"):
            stack.enter_context(running((*cluster.pods[0].prefix, str(traffic), server)))
        for number in range(arguments.rounds):
            dropped = sender(cluster, traffic)
            for path in paths[number % len(paths) :] + paths[: number % len(paths)]:
                print(f"round {number + 1} of {arguments.rounds}: {path}", file=sys.stderr)
                rounds[path].append(measured(cluster, traffic, path, dropped))
    rows = [summary(path, rounds[path]) for path in paths]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    first, kernel = (next((row for row in rows if row["path"] == path), None) for path in PAIR)
    head = f"{machine()} Rounds: {arguments.rounds}; medians (lowest to highest)."
    text = f"{head}\n\n{table(*view(rows))}"
    if first and kernel:
        ratios = {
            field: statistics.median(
                ours[field] / peer[field]
                for ours, peer in zip(*(rounds[path] for path in PAIR), strict=True)
            )
            for field in ("cpu_ns_net", "tcp_gbit_s", "connects_per_s")
        }
        listed = ", ".join(f"{field} {ratio:.2f}" for field, ratio in ratios.items())
        text += f"\n{PAIR[0]} to {PAIR[1]}, medians of the rounds' own ratios: {listed}.\n"
    part("datapath", "make bench-datapath", text)
    print(text)


def measured(cluster: Cluster, traffic: Path, path: str, dropped: float) -> Row:
    """One way, once."""
    bursts, pause, megabytes = LOAD.get(path, USUAL)
    to = POD if path == "forward" else VIP
    client = (*cluster.client.prefix, str(traffic))
    row: Row = dict.fromkeys(FIELDS)
    with PATHS[path](cluster) as daemon:
        run(*client, "flood", to, "4", str(pause))
        before = cpu_ns(daemon)
        sent, cost = map(float, run(*client, "flood", to, str(bursts), str(pause)).split())
        time.sleep(0.3)
        spent = cpu_ns(daemon) - before
        row["cpu_ns_net"] = cost + spent / sent - dropped
        # Where the kernel carries flows, there is no such figure: their packets do not come to the
        # daemon.
        is_carried = path == "first-packet" or not daemon
        row["core_kpps"] = None if is_carried else saturated(cluster, client, to, daemon)
        if path != "c-nfq":  # It translates in one direction only.
            row["rtt_us_p50"], row["rtt_us_p99"] = map(
                float, run(*client, "ping", to, "2000").split()
            )
            row["tcp_gbit_s"] = float(run(*client, "bulk", to, str(megabytes)))
            row |= zip(CONNECTS, map(float, run(*client, "connect", to, "1").split()), strict=True)
    return row


def saturated(cluster: Cluster, client: tuple[str, ...], to: str, daemon: int) -> float:
    """Thousands of packets that a daemon serves in a second of its CPU time while more come than it
    can serve.
    """
    before, cpu = served(cluster), cpu_ns(daemon)
    run(*client, "flood", to, "800", "0")
    spent, packets = cpu_ns(daemon) - cpu, served(cluster) - before
    time.sleep(1)
    return packets * 1e6 / spent


def served(cluster: Cluster) -> int:
    """Packets that our queue has ever handed out and that wait no more
    (/proc/net/netfilter/nfnetlink_queue).
    """
    for line in cluster.node.call("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines():
        fields = [int(word) for word in line.split()]
        if fields[0] == QUEUE:
            return fields[7] - fields[6] - fields[2]
    return 0


def sender(cluster: Cluster, traffic: Path) -> float:
    """The cost of a packet to its sender, in ns, when it is dropped as early as can be."""
    rule = ("iptables", "-t", "raw", "{}", "PREROUTING", "-d", "192.0.2.1", "-j", "DROP")
    cluster.node.call(*(word.format("-A") for word in rule))
    said = run(*cluster.client.prefix, str(traffic), "flood", "192.0.2.1", "200", "500")
    cluster.node.call(*(word.format("-D") for word in rule))
    return float(said.split()[1])


@contextmanager
def forward(cluster: Cluster) -> Iterator[int]:
    """No rule at all."""
    yield 0


@contextmanager
def iptables_dnat(cluster: Cluster) -> Iterator[int]:
    """The kernel's NAT by iptables."""
    rule = ("PREROUTING", "-d", VIP, "-j", "DNAT", "--to-destination", POD)
    cluster.node.call("iptables", "-t", "nat", "-A", *rule)
    yield 0
    cluster.node.call("iptables", "-t", "nat", "-D", *rule)


@contextmanager
def nft_dnat(cluster: Cluster) -> Iterator[int]:
    """The kernel's NAT by nft."""
    rules = (
        "table ip bench {",
        "chain pre {",
        "type nat hook prerouting priority dstnat",
        f"ip daddr {VIP} dnat to {POD}",
        "}",
        "}",
    )
    Commands(cluster.node.prefix).run(("nft", "-f", "-"), "\n".join(rules) + "\n")
    yield 0
    cluster.node.call("nft", "delete", "table", "ip", "bench")


def ours(path: str) -> Callable[[Cluster], Any]:
    """One of our drivers, with the rules of the product."""

    @contextmanager
    def way(cluster: Cluster) -> Iterator[int]:
        command = (*cluster.node.prefix, sys.executable, *FORWARDER, path)
        rules = rule_sets(PLAN, (QUEUE, QUEUE))
        with (
            running(command, PATIENCE) as daemon,
            installation(Iptables(Commands(cluster.node.prefix)), rules),
        ):
            yield daemon

    return way


@contextmanager
def first_packet(cluster: Cluster) -> Iterator[int]:
    """Ours, with the kernel carrying flows."""
    command = (*cluster.node.prefix, sys.executable, *FORWARDER, "first-packet")
    with running(command, PATIENCE) as daemon:
        yield daemon


@contextmanager
def c_nfq(cluster: Cluster) -> Iterator[int]:
    """The C yardstick, with the rules and the mark of the product: the kernel has the same work."""
    command = (*cluster.node.prefix, str(ROOT / "target/nfq"), str(QUEUE), POD, hex(Marks().flow))
    rules = rule_sets(PLAN, (QUEUE, QUEUE))
    with running(command) as daemon, installation(Iptables(Commands(cluster.node.prefix)), rules):
        yield daemon


PATHS: Final[dict[str, Callable[[Cluster], Any]]] = {
    "forward": forward,
    "iptables-dnat": iptables_dnat,
    "nft-dnat": nft_dnat,
    "netfilterqueue-reference": ours("netfilterqueue-reference"),
    "netfilterqueue-engine": ours("netfilterqueue-engine"),
    "native": ours("native"),
    "first-packet": first_packet,
    "c-nfq": c_nfq,
}


def summary(path: str, rounds: list[Row]) -> Row:
    """Medians, and from where to where the rounds went."""
    result: Row = {"path": path}
    for field in FIELDS:
        values = [row[field] for row in rounds if row[field] is not None]
        result[field] = round(statistics.median(values), 2) if values else None
        spread = [round(min(values), 2), round(max(values), 2)] if values else None
        result[f"{field}_spread"] = spread
    return result


def view(rows: list[Row]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The table: figures, and what they are against their peers."""

    def of(path: str, field: str) -> float | None:
        return next((row[field] for row in rows if row["path"] == path), None)

    def text(row: Row, field: str, peer: str = "") -> str:
        value = row[field]
        if value is None:
            return "-"
        low, high = row[f"{field}_spread"]
        other = of(peer, field) if peer else None
        against = f", {value / other:.2f}x" if other else ""
        return f"{figure(value)}{against} ({figure(low)} to {figure(high)})"

    columns = (
        "path",
        "CPU ns a packet, x nft-dnat",
        "kpps of a core, x c-nfq",
        "TCP Gbit/s, x forward",
        "round trip p50 µs",
        "p99 µs",
        "connections/s, x nft-dnat",
        "connect p50 µs, x nft-dnat",
        "p99 µs",
    )
    lines = [
        [
            row["path"],
            text(row, "cpu_ns_net", "nft-dnat"),
            text(row, "core_kpps", "c-nfq"),
            text(row, "tcp_gbit_s", "forward"),
            text(row, "rtt_us_p50"),
            text(row, "rtt_us_p99"),
            text(row, "connects_per_s", "nft-dnat"),
            text(row, "connect_us_p50", "nft-dnat"),
            text(row, "connect_us_p99"),
        ]
        for row in rows
    ]
    return columns, lines


if __name__ == "__main__":
    main()
