"""What an established packet costs by the flow cache, beside the kernel's NAT and plain forwarding.

A client, a router and a server in network namespaces for each way; one thread sends on all of them,
in turns of a few milliseconds, and counts its own CPU time, which on veth pairs is the whole way to
the receiver. "packet" is a UDP packet of 18 bytes from the router's first hook to the server's,
which drops it: what one costs that the router drops there is taken off. Round trips and
streams of TCP have both ends' stacks in them. On a busy machine trust the minima.

Writes benches/results/flow_cache.json and a part of benches/RESULTS.md. As root, with tests in
PYTHONPATH.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from benches.harness.processes import ROOT, compile_program
from benches.harness.report import PAGE, figure, machine, part, table
from harness.cached_router import (
    CLIENT,
    FRONTEND_PORT,
    SERVER,
    SERVER_PORT,
    VIP,
    Router,
    proposals,
    router,
)
from kbe_nat.family import Family

DROP: Final = """
table inet bench {
    chain prerouting {
        type filter hook prerouting priority raw;
        udp dport 7777 drop
    }
}
"""
WAYS: Final = ("drop", "forward", "hooks", "nft", "cached", "pod")
"""hooks: plain forwarding past the programs, which know nothing of its flows. pod: the cache, to a
pod's veth pair.
"""
TITLES: Final = {
    "forward": "plain forwarding",
    "hooks": "plain forwarding, programs attached",
    "nft": "nft DNAT",
    "cached": "flow cache",
    "pod": "flow cache, both ends pods",
}
KINDS: Final = {"udp": "packet", "rr": "TCP round trip", "bulk": "TCP KiB"}
UDP_PORTS: Final = range(20_000, 20_064)
TCP_PORT: Final = 41_000
Samples = dict[str, dict[str, list[float]]]


@contextmanager
def routers() -> Iterator[dict[str, Router]]:
    """A router for each way."""
    with ExitStack() as stack:
        ways = {name: stack.enter_context(router()) for name in WAYS}
        for name, way in ways.items():
            for device in way.cache.devices if name in ("drop", "forward", "nft") else ():
                way.cache.detach(device)
            if name in ("drop", "forward", "hooks"):
                way.node.call("nft", "delete table ip nat; delete table ip6 nat")
        for end in ("r0", "r1"):
            ways["pod"].cache.set_peer(ways["pod"].devices[end], True)
        yield ways


def measure(family: Family, rounds: int) -> Samples:
    """CPU nanoseconds of each round, by way and kind."""
    program = compile_program(ROOT / "benches/yardstick/turns.c", "turns")
    if program is None:
        sys.exit(1)
    with routers() as ways:
        words = []
        for name, way in ways.items():
            is_translated = name in ("nft", "cached", "pod")
            address = VIP[family] if is_translated else SERVER[family]
            port = FRONTEND_PORT if is_translated else SERVER_PORT
            files = f"{way.client.path}@{way.servers[0].path}"
            words.append(f"{name}@{files}@{address}@{port}")
        command = [str(program), "4" if family is Family.IPV4 else "6", str(rounds), *words]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for step in ("ready", "warm"):
                if process.stdout.readline().strip() != step:
                    sys.exit("the measuring program has failed")
                if step == "ready":
                    for name in ("cached", "pod"):
                        ways[name].cache.propose(rows_of(family))
                else:
                    for name, way in ways.items():
                        (way.node if name == "drop" else way.servers[0]).call("nft", DROP)
                process.stdin.write("\n")
                process.stdin.flush()
            lines = process.stdout.read().splitlines()
        hits = {name: ways[name].cache.counters()["hits"] for name in ("cached", "pod")}
        if min(hits.values()) < rounds * 2_000:
            sys.exit(f"the cache has carried {hits}: that is not what was to be measured")
    samples: Samples = {name: {} for name in WAYS}
    for line in lines:
        name, kind, *numbers = line.split()
        samples[name][kind] = [float(number) for number in numbers]
    return samples


def rows_of(family: Family) -> list[Any]:
    """Proposals of all flows."""
    flows = [("udp", port) for port in UDP_PORTS] + [("tcp", TCP_PORT)]
    frontend, server = (VIP[family], FRONTEND_PORT), (SERVER[family], SERVER_PORT)
    return [
        row
        for protocol, port in flows
        for row in proposals(protocol, (CLIENT[family], port), frontend, server)
    ]


def summary(samples: Samples) -> dict[str, Any]:
    """By way and kind: the minimum, the median, and both beside nft's; of the ratios of a round to
    nft's in the same round the median and the quartiles.
    """
    dropped = samples["drop"]["udp"]
    result: dict[str, Any] = {}
    for name in TITLES:
        for kind in KINDS:
            less = dropped if kind == "udp" else [0.0] * len(dropped)
            taken_ns, nft = samples[name][kind], samples["nft"][kind]
            rounds = zip(taken_ns, nft, less, strict=True)
            ratios = [(ns - base) / (by_nft - base) for ns, by_nft, base in rounds if by_nft > base]
            low, middle, high = statistics.quantiles(ratios, n=4)
            result.setdefault(name, {})[kind] = {
                "min_ns": min(taken_ns) - min(less),
                "median_ns": statistics.median(taken_ns) - statistics.median(less),
                "min_ratio": (min(taken_ns) - min(less)) / (min(nft) - min(less)),
                "ratio_p25": low,
                "ratio_p50": middle,
                "ratio_p75": high,
            }
    return result


def cells(row: dict[str, float]) -> list[str]:
    """A row's cells of one kind."""
    spread = f"{row['ratio_p50']:.2f} ({row['ratio_p25']:.2f}-{row['ratio_p75']:.2f})"
    return [figure(row["min_ns"]), f"{row['min_ratio']:.2f}", spread]


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120, help="times that each is measured")
    rounds = parser.parse_args().rounds
    families = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
    results = {title: summary(measure(family, rounds)) for title, family in families.items()}
    (PAGE.parent / "results/flow_cache.json").write_text(json.dumps(results, indent=2) + "\n")
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
    part("flow cache", "make bench-flow-cache", text)
    print(text)


if __name__ == "__main__":
    main()
