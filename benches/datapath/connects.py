"""What opening a connection costs on each way, with one Service and with many, in turns of a
twentieth of a second unless asked otherwise.

Writes benches/results/connects.json and a part of benches/RESULTS.md. Needs root.
"""

import argparse
from random import Random
from typing import Final

from benches.datapath.beside import BASELINE, Compared, compare, standing
from benches.harness.report import figure, machine, store, table
from kbe_nat.family import Family
from kbe_nat.lab.live.objects import objects
from kbe_nat.lab.live.traffic import Connections
from kbe_nat.lab.live.ways.way import Served

WAYS: Final = ("forward", BASELINE, "kernel-choice", "first-packet", "cached", "every-packet")
MANY_WAYS: Final = (BASELINE, "kernel-choice", "first-packet", "cached")
"""Of these with more than one Service."""
FIELDS: Final = {"p50_us": "connect p50 µs", "p99_us": "p99 µs", "rate": "connections/s"}
Row = dict[str, Compared]


def measure(services: int, rounds: int, seconds: float) -> dict[str, Row]:
    """By way and field."""
    names = WAYS if services == 1 else MANY_WAYS
    with standing({name: name for name in names}, objects(services)) as served:
        samples: dict[str, list[Connections]] = {name: [] for name in served}
        # The first round warms up.
        for turn in range(rounds + 1):
            # Caches and late work of the way before cost a turn up to 5 %: no way has a neighbour.
            for name, way in Random(turn).sample([*served.items()], len(served)):
                done = opened(way, seconds)
                if turn:
                    samples[name].append(done)
    return {
        name: {
            field: compare(
                values(field, turns),
                values(field, samples[BASELINE]),
                is_rate=field == "rate",
            )
            for field in FIELDS
        }
        for name, turns in samples.items()
    }


def opened(way: Served, seconds: float) -> Connections:
    """The connections of a turn."""
    return way.network.traffic.connect(way.address(Family.IPV4), seconds=seconds)


def values(field: str, turns: list[Connections]) -> list[float]:
    """A field of each round."""
    if field == "rate":
        return [done.opened / done.seconds for done in turns]
    return [getattr(done.latencies, field) for done in turns]


def cells(row: Compared) -> list[str]:
    """A row's cells of one field."""
    spread = f"{row['ratio_p50']:.2f} ({row['ratio_p25']:.2f}-{row['ratio_p75']:.2f})"
    return [figure(row["median"]), figure(row["least"]), spread]


def page(results: dict[str, dict[str, Row]], rounds: int, seconds: float) -> str:
    """The part of benches/RESULTS.md."""
    columns = [
        "way",
        "Services",
        *(f"{field}{more}" for field in FIELDS.values() for more in ("", ", best", ", x nft")),
    ]
    lines = [
        [name, f"{int(services):,}", *(cell for field in FIELDS for cell in cells(row[field]))]
        for services, rows in results.items()
        for name, row in rows.items()
    ]
    text = (
        f"{machine()} Rounds: {rounds}, turns of {seconds} s. The median and the best of rounds,"
        " and the median of each round's own ratio to nft DNAT with its quartiles."
    )
    return f"{text}\n\n{table(columns, lines)}"


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--services", type=int, nargs="+", default=[1, 10_000], help="numbers of Services"
    )
    parser.add_argument("--rounds", type=int, default=100, help="times that each is measured")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.05,
        help="length of a turn; longer ones show what is done for the first events of a second",
    )
    arguments = parser.parse_args()
    rounds, seconds = arguments.rounds, arguments.seconds
    results = {str(services): measure(services, rounds, seconds) for services in arguments.services}
    store("connects", "make bench-datapath", results, page(results, rounds, seconds))


if __name__ == "__main__":
    main()
