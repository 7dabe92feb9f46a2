"""What a packet of an established flow costs on each way, and what others' packets pay for ours.

One thread sends on all ways, in turns of a few milliseconds, and counts its own CPU time, which on
veth pairs is the whole way to the receiver. "packet" is a UDP packet of 18 bytes from the node's
first hook to the pod's, which drops it: what one costs that the node drops there is taken off.
Round trips and streams of TCP have both ends' stacks in them.

Writes benches/results/established.json and a part of benches/RESULTS.md. Needs root.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from socket import if_nametoindex
from typing import Any, Final

from benches.datapath.beside import BASELINE, Compared, compare, standing
from benches.harness.processes import ROOT, compile_program
from benches.harness.report import figure, machine, store, table
from kbe_nat._native import FlowCache
from kbe_nat.family import Family
from kbe_nat.lab.live.objects import PODS, objects
from kbe_nat.lab.live.ways.way import Served
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.playground.cluster import CLIENT_ADDRESS, CLIENT_ADDRESS_6
from kbe_nat.playground.namespaces import inside

WAYS: Final = {
    "drop": "forward",
    "forward": "forward",
    BASELINE: "nft-dnat",
    "first-packet": "first-packet",
    "cached": "cached",
    "uplink": "nft-dnat",
    "others": "first-packet",
    "others-cached": "cached",
}
"""The ways of the lab by our names."""
TITLES: Final = {
    "forward": "plain forwarding",
    BASELINE: "nft DNAT",
    "first-packet": "first-packet, whoever chooses",
    "cached": "cached, into local pods",
    "uplink": "the cache alone, as towards an uplink",
    "others": "no Service's packet, beside first-packet",
    "others-cached": "no Service's packet, beside cached",
}
TO_SERVICE: Final = (BASELINE, "first-packet", "cached", "uplink")
KINDS: Final = {"udp": "packet", "rr": "TCP round trip", "bulk": "TCP KiB"}
VIPS: Final = {Family.IPV4: "172.30.228.254", Family.IPV6: "fd00:30::fe"}
CLIENTS: Final = {Family.IPV4: CLIENT_ADDRESS, Family.IPV6: CLIENT_ADDRESS_6}
FRONTEND_PORT: Final = 80
SERVER_PORT: Final = 7780
"""As in turns.c, like those that follow. Servers of the lab have other ports."""
UDP_PORTS: Final = range(20_000, 20_064)
TCP_PORT: Final = 41_000
DATAGRAMS: Final = 2_000
"""Of a way in a round, at least."""
ASSURED_SECONDS: Final = 2.3
"""Until conntrack calls datagrams and their answers a stream."""
PROPOSED_SECONDS: Final = 0.7
SLOW_SHARE: Final = 0.2
"""Of packets, at most, in a measurement of the cache: a packet a second and direction of each flow,
which on a slow machine are many of a round.
"""
DROP: Final = f"""
table inet bench {{
    chain prerouting {{
        type filter hook prerouting priority raw;
        udp dport {SERVER_PORT} drop
    }}
}}
"""
Samples = dict[str, dict[str, list[float]]]


def snapshot(family: Family) -> Snapshot:
    """The lab's objects, and a Service whose port the program's server has."""
    lab_objects = objects(1, families=(family,))
    protocols = ("udp", "tcp")
    ports = tuple(ServicePort(name, name, FRONTEND_PORT) for name in protocols)
    service = Service("default", "turns", (VIPS[family],), ports)
    backends = EndpointSlice(
        "turns",
        family,
        tuple(SlicePort(name, name, SERVER_PORT) for name in protocols),
        (Endpoint(PODS[family][0]),),
    )
    slices = {**lab_objects.slices, service.key: (backends,)}
    return Snapshot(1, (service, *lab_objects.services), slices)


def measure(family: Family, rounds: int) -> Samples:
    """CPU nanoseconds of each round, by way and kind. Raises `SystemExit` when the cache has not
    carried what was to be measured.
    """
    program = compile_program(ROOT / "benches/yardstick/turns.c", "turns")
    if program is None:
        sys.exit(1)
    with standing(WAYS, snapshot(family)) as served, lone_cache(served, family) as propose:
        places = [place(name, way, family) for name, way in served.items()]
        number = "4" if family is Family.IPV4 else "6"
        process = subprocess.Popen(
            [str(program), number, str(rounds), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdin is not None and process.stdout is not None
            before = {}
            for step in ("ready", "assured", "warm"):
                if process.stdout.readline().strip() != step:
                    sys.exit("the measuring program has failed")
                if step == "ready":
                    # The daemon proposes flows by itself.
                    propose()
                    time.sleep(ASSURED_SECONDS)
                elif step == "assured":
                    time.sleep(PROPOSED_SECONDS)
                else:
                    for name, way in served.items():
                        drop_in = way.network.node if name == "drop" else way.network.pods[0]
                        drop_in.call("nft", DROP)
                    before = {name: forwarded(way, family) for name, way in served.items()}
                process.stdin.write("\n")
                process.stdin.flush()
            lines = process.stdout.read().splitlines()
        for name in ("cached", "uplink"):
            share = (forwarded(served[name], family) - before[name]) / (rounds * DATAGRAMS)
            if share > SLOW_SHARE:
                sys.exit(f"{name}: {share:.0%} of the packets went the kernel's way")
    samples: Samples = {name: {} for name in served}
    for line in lines:
        name, kind, *numbers = line.split()
        samples[name][kind] = [float(number) for number in numbers]
    return samples


def place(name: str, way: Served, family: Family) -> str:
    """A way as the measuring program reads it."""
    is_translated = name in TO_SERVICE
    address = VIPS[family] if is_translated else PODS[family][0]
    port = FRONTEND_PORT if is_translated else SERVER_PORT
    network = way.network
    return f"{name}@{network.client.path}@{network.pods[0].path}@{address}@{port}"


def forwarded(way: Served, family: Family) -> int:
    """Packets that the node's stack has forwarded."""
    if family is Family.IPV6:
        rows = way.network.node.call("cat", "/proc/net/snmp6").splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("Ip6OutForwDatagrams"))
    names, numbers = way.network.node.call("cat", "/proc/net/snmp").splitlines()[:2]
    return int(numbers.split()[names.split().index("ForwDatagrams")])


@contextmanager
def lone_cache(served: Mapping[str, Served], family: Family) -> Iterator[Callable[[], None]]:
    """The cache on the node of the way `uplink`. It knows nothing of pods, so packets leave with a
    link header, as they do through a network card. Yields what proposes the flows.
    """
    node = served["uplink"].network.node
    # What the cache carries is beyond the windows that conntrack knows. The daemon says so for each
    # flow.
    node.write("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1")
    cache = inside(node.path, lambda: FlowCache(max_flows=1024))
    devices = inside(node.path, lambda: [if_nametoindex(name) for name in ("eth0", "veth0")])
    for device in devices:
        inside(node.path, partial(cache.attach, device))
    cache.beat(3600.0)
    yield lambda: cache.propose(proposals(family))
    for device in devices:
        cache.detach(device)


def proposals(family: Family) -> list[Any]:
    """Both directions of all flows."""
    frontend, pod = (VIPS[family], FRONTEND_PORT), (PODS[family][0], SERVER_PORT)
    flows = [("udp", port) for port in UDP_PORTS] + [("tcp", TCP_PORT)]
    rows = []
    for protocol, port in flows:
        client = (CLIENTS[family], port)
        rows.append((protocol, (client, frontend), (client, pod)))
        rows.append((protocol, (pod, client), (frontend, client)))
    return rows


def summary(samples: Samples) -> dict[str, dict[str, Compared]]:
    """By way and kind."""
    dropped = samples["drop"]["udp"]
    return {
        name: {
            kind: compare(
                samples[name][kind],
                samples[BASELINE][kind],
                dropped if kind == "udp" else None,
            )
            for kind in KINDS
        }
        for name in samples
        if name != "drop"
    }


def cells(row: Compared) -> list[str]:
    """A row's cells of one kind."""
    spread = f"{row['ratio_p50']:.2f} ({row['ratio_p25']:.2f}-{row['ratio_p75']:.2f})"
    return [figure(row["least"]), f"{row['least_ratio']:.2f}", spread]


def page(results: Mapping[str, Mapping[str, Mapping[str, Compared]]], rounds: int) -> str:
    """The part of benches/RESULTS.md."""
    columns = [
        "way",
        *(f"{kind}: {part}" for kind in KINDS.values() for part in ("ns", "x nft", "of rounds")),
    ]
    text = f"{machine()} Rounds: {rounds}. ns and x nft by minima; of rounds: the median of each"
    text += " round's own ratio to nft DNAT, and its quartiles.\n\n"
    for title, rows in results.items():
        lines = [
            [f"{title} {TITLES[name]}", *(cell for kind in KINDS for cell in cells(row[kind]))]
            for name, row in rows.items()
        ]
        text += f"{table(columns, lines)}\n"
        dearer = (rows["others-cached"]["udp"]["least"] - rows["others"]["udp"]["least"]) / 2
        text += (
            f"A packet of {title} to no Service: {dearer:.0f} ns dearer a device by the cache.\n\n"
        )
    return text


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="times that each is measured")
    rounds = parser.parse_args().rounds
    families = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
    results = {title: summary(measure(family, rounds)) for title, family in families.items()}
    store("established", "make bench-datapath", results, page(results, rounds))


if __name__ == "__main__":
    main()
