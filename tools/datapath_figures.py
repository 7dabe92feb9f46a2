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
WAYS: Final = {
    "nft-dnat": "the kernel's NAT by an nft map",
    "first-packet": "`first-packet`",
    "kernel-choice": "`first-packet` with `--choice kernel`",
    "cached": "`cached`",
    "every-packet": "`every-packet`",
}
OPENING: Final = ("p50_us", "p99_us", "rate")
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
PEER: Final = "nft-dnat"
"""The way that all ratios are to."""
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
    """A table: a row for each way, and the price of a packet, and of opening a connection."""
    yield "| | a packet | opening a connection, p50 | p99 | connections a second |"
    yield "|---|---:|---:|---:|---:|"
    for way, title in WAYS.items():
        # Whoever has chosen, the kernel carries the flow alike.
        row = established.get("first-packet" if way == "kernel-choice" else way)
        packet = f"{every_packet:.1f}x" if row is None else cell(way, row["udp"], " ns")
        opening = (
            cell(way, connects[way][field], " µs" if field.endswith("us") else "")
            for field in OPENING
        )
        yield f"| {' | '.join((title, packet, *opening))} |"


def cell(way: str, row: Figures, unit: str) -> str:
    """The median of the rounds' own ratios to nft DNAT; of that itself, the median of rounds."""
    return f"{figure(row['median'])}{unit}" if way == PEER else f"{row['ratio_p50']:.2f}x"


def price(peer: Figures, ratio: float) -> str:
    """What a way costs where nft DNAT costs its median: medians of other ways are from moments
    that were not nft DNAT's, and would contradict the ratios.
    """
    return figure(peer["median"] * ratio)


def figure(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def drawing(established: Figures, connects: Figures, every_packet: float) -> Iterator[str]:
    """What a packet meets on each way, and what it costs there."""
    yield "```"
    yield drawn("a packet of an established flow", "", "ns", "x nft DNAT")
    for way, path in PATHS.items():
        row = established.get(way)
        ratio = row["udp"]["ratio_p50"] if row else every_packet
        yield drawn(f"  {way}", path, price(established[PEER]["udp"], ratio), f"{ratio:.2f}")
    yield ""
    yield drawn("the first packet of a connection", "", "connect µs", "x nft DNAT")
    for way, path in FIRST_PATHS.items():
        yield opening(way, path, connects["1"])
    many = max(connects, key=int)
    yield ""
    yield drawn(f"the same among {int(many):,} Services", "", "connect µs", "x nft DNAT")
    for way in connects[many]:
        yield opening(way, "", connects[many])
    peer, uplink = established[PEER]["udp"], established["uplink"]["udp"]
    among, before = (established[way]["udp"]["ratio_p50"] for way in ("others-cached", "others"))
    # It passes two devices.
    dearer = price(peer, (among - before) / 2)
    yield "```"
    yield ""
    yield f"A packet to no Service pays {dearer} ns more on each device where `cached` serves."
    yield "The price of `cached` is that of a packet into a local pod, which is handed to the pod's"
    yield "end of the veth pair. Towards an uplink, by link headers, it is"
    yield f"{price(peer, uplink['ratio_p50'])} ns, {uplink['ratio_p50']:.2f} times nft DNAT's."
    yield ""
    every, first = (connects["1"][way]["p99_us"] for way in ("every-packet", "first-packet"))
    yield "The slowest hundredth of connections (p99) takes, to open, in times nft DNAT's:"
    yield f"`every-packet` {every['ratio_p50']:.1f}, `first-packet` {first['ratio_p50']:.1f}."


def opening(way: str, path: str, connects: Figures) -> str:
    """The line of a connection's first packet."""
    ratio = connects[way]["p50_us"]["ratio_p50"]
    return drawn(f"  {way}", path, price(connects[PEER]["p50_us"], ratio), f"{ratio:.2f}")


def drawn(name: str, path: str, price: str, ratio: str) -> str:
    """A line of the drawing."""
    return f"{f'{name:<18}{path}':<86}{price:>10}{ratio:>12}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
