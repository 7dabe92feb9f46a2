"""Write the datapaths' prices in README.md and docs/datapaths.md, from the last `make
bench-datapath`, whose rows are in benches/results.

`--check` writes nothing, and ends with 1 if a page is not up to date.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from written import write

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benches/results"
README: Final = ROOT / "README.md"
DATAPATHS: Final = ROOT / "docs/datapaths.md"
BEGIN: Final = "<!-- tools/datapath_figures.py writes from here -->\n"
END: Final = "<!-- to here -->\n"
WAYS: Final = ("forward", "nft-dnat", "first-packet", "kernel-choice", "cached", "every-packet")
HEADS: Final = (
    "forwarding",
    "nft DNAT",
    "`first-packet`",
    "with `--choice kernel`",
    "`cached`",
    "`every-packet`",
)
ESTABLISHED: Final = {
    "udp": ("a packet, ns", 1.0),
    "rr": ("a TCP round trip, µs, both ends in it", 1e-3),
    "bulk": ("a KiB of TCP, ns, both ends in it", 1.0),
}
OPENING: Final = {
    "p50_us": "opening a connection, µs, p50",
    "p99_us": "p99",
    "rate": "connections a second",
}
PATHS: Final = {
    "forward": "device ─► routing ─► device",
    "nft-dnat": "device ─► conntrack ─► NAT ─► routing ─► device",
    "first-packet": "device ─► conntrack ─► a comparison ─► NAT ─► routing ─► device",
    "cached": "device ─► program: look-up, rewrite ─► device",
    "every-packet": "device ─► queue ─► thread: rewrite ─► conntrack ─► routing ─► device",
}
FIRST_PATHS: Final = {
    "nft-dnat": "conntrack ─► a map ─► NAT ─► pod",
    "kernel-choice": "conntrack ─► a slot is drawn ─► NAT ─► pod",
    "first-packet": "conntrack ─► queue ─► engine draws ─► mark ─► NAT ─► pod",
    "cached": "the same",
    "every-packet": "queue ─► engine draws, rewrites ─► pod, and back so",
}
Figures = Mapping[str, Any]


def main() -> int:
    """Write both pages."""
    established = read("established")["IPv4"]
    connects = read("connects")
    every_packet = ratio_of_every_packet(read("datapath"))
    status = 0
    for page, lines in (
        (README, readme(established, connects["1"], every_packet)),
        (DATAPATHS, drawing(established, connects, every_packet)),
    ):
        status |= write(page, put(page.read_text(), lines), __doc__)
    return status


def read(name: str) -> Figures:
    """What a benchmark has left, by way or family; lists by path."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    return {row["path"]: row for row in rows} if isinstance(rows, list) else rows


def ratio_of_every_packet(rows: Figures) -> float:
    """Processor time of a packet, its threads' with it, to nft DNAT's in the same run: a thread
    that sends does not see it.
    """
    return float(rows["native"]["cpu_ns_net"] / rows["nft-dnat"]["cpu_ns_net"])


def put(text: str, lines: Iterator[str]) -> str:
    """The page's text with these lines between the marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{chr(10).join(lines)}\n\n{END}{tail}"


def readme(established: Figures, connects: Figures, every_packet: float) -> Iterator[str]:
    """A table: rows are what is measured, columns the ways."""
    yield f"| | {' | '.join(HEADS)} |"
    yield f"|---|{'---:|' * len(HEADS)}"
    for kind, (title, scale) in ESTABLISHED.items():
        cells = []
        for way in WAYS:
            # Whoever has chosen, the kernel carries the flow alike.
            row = established.get("first-packet" if way == "kernel-choice" else way)
            if row is not None:
                cells.append(cell(row[kind], scale))
            else:
                cells.append(f"{every_packet:.1f}x" if kind == "udp" else "")
        yield f"| {title} | {' | '.join(cells)} |"
    for field, title in OPENING.items():
        cells = [cell(connects[way][field], 1.0) if way in connects else "" for way in WAYS]
        yield f"| {title} | {' | '.join(cells)} |"


def cell(row: Figures, scale: float) -> str:
    """The best of all rounds, and the median of the rounds' own ratios to nft DNAT."""
    return f"{figure(row['least'] * scale)}, {row['ratio_p50']:.2f}x"


def figure(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def drawing(established: Figures, connects: Figures, every_packet: float) -> Iterator[str]:
    """What a packet meets on each way, and what it costs there."""
    yield "```"
    yield drawn("a packet of an established flow", "", "ns", "x nft DNAT")
    for way, path in PATHS.items():
        row = established.get(way)
        least = figure(row["udp"]["least"]) if row else ""
        ratio = f"{row['udp']['ratio_p50']:.2f}" if row else f"{every_packet:.1f}"
        yield drawn(f"  {way}", path, least, ratio)
    yield ""
    yield drawn("the first packet of a connection", "", "connect µs", "x nft DNAT")
    for way, path in FIRST_PATHS.items():
        row = connects["1"].get(way)
        if row is not None:
            least, ratio = figure(row["p50_us"]["least"]), f"{row['p50_us']['ratio_p50']:.2f}"
            yield drawn(f"  {way}", path, least, ratio)
    many = max(connects, key=int)
    yield ""
    yield drawn(f"the same among {int(many):,} Services", "", "connect µs", "x nft DNAT")
    for way, row in connects[many].items():
        least, ratio = figure(row["p50_us"]["least"]), f"{row['p50_us']['ratio_p50']:.2f}"
        yield drawn(f"  {way}", "", least, ratio)
    uplink, others = established["uplink"]["udp"], established["others"]["udp"]
    dearer = (established["others-cached"]["udp"]["least"] - others["least"]) / 2
    yield "```"
    yield ""
    yield f"A packet to no Service pays {dearer:.0f} ns more on each device where `cached` serves."
    yield "Here it hands packets straight into local pods. As towards an uplink, by link headers,"
    yield f"the cache takes {uplink['ratio_p50']:.2f} times nft DNAT's."


def drawn(name: str, path: str, price: str, ratio: str) -> str:
    """A line of the drawing."""
    return f"{f'{name:<18}{path}':<86}{price:>10}{ratio:>12}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
