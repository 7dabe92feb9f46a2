"""Write the figures in docs/research.md: three runs of the gallery, as `kbe-nat lab run` makes
them.

`--check` writes nothing, and ends with 1 if the page is not up to date. Takes some ten seconds.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from written import write

from kbe_nat import lab
from kbe_nat.lab.statistics import Estimate, estimate

PAGE: Final = Path(__file__).parents[1] / "docs/research.md"
SHOWN: Final = ("random", "rr", "lc", "p2c", "mh", "ring", "bounded")
"""Of the twelve strategies of the scenario `even`."""
BEGIN: Final = "<!-- tools/lab_figures.py writes from here -->\n"
END: Final = "<!-- to here -->\n"


def page(text: str) -> str:
    """The page's text with the figures of runs that are made now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{chr(10).join(figures())}\n\n{END}{tail}"


def figures() -> Iterator[str]:
    """The lines of all figures."""
    yield (
        "How do two endpoints share connections? `kbe-nat lab run two-endpoints -d two-endpoints`\n"
    )
    yield from _table(
        ("strategy", "share of the first endpoint"), _halves(lab.run("two-endpoints"))
    )
    yield "\nHow evenly do strategies spread over twenty backends? `kbe-nat lab run even -d even`\n"
    yield from _table(
        ("strategy", "connections: largest over mean", "coefficient of variation"),
        _evenness(lab.run("even")),
    )
    yield "\nWhat moves when an eleventh backend comes? `kbe-nat lab run scale-out -d scale-out`\n"
    yield from _table(
        ("strategy", "choices that change", "least", "broken without memory", "with JET"),
        _moves(lab.run("scale-out")),
    )


def _halves(result: lab.Result) -> Iterator[Sequence[str]]:
    rows = [row for row in result.rows("backends") if row["backend"] == 0]
    for strategy in _strategies(rows):
        share = _estimate(rows, "connections_share", strategy=strategy)
        yield strategy, f"{share.mean:.4f} ±{share.half or 0:.4f}"


def _evenness(result: lab.Result) -> Iterator[Sequence[str]]:
    rows = [
        row
        for row in result.rows("balance")
        if (row["quantity"], row["window"]) == ("connections", "run")
    ]
    for strategy in SHOWN:
        measures = (_estimate(rows, name, strategy=strategy) for name in ("max_over_mean", "cv"))
        yield strategy, *(f"{measure.mean:.3f} ±{measure.half or 0:.3f}" for measure in measures)


def _moves(result: lab.Result) -> Iterator[Sequence[str]]:
    rows = list(result.rows("events"))
    for row in rows:
        row["broken_share"] = row["broken"] / row["live"]
    for strategy in _strategies(rows):
        keys = [_estimate(rows, name, strategy=strategy) for name in ("keys_moved", "keys_minimum")]
        broken = [
            _estimate(rows, "broken_share", strategy=strategy, memory=memory)
            for memory in ("none", "jet")
        ]
        yield strategy, *(f"{100 * value.mean:.1f} %" for value in (*keys, *broken))


def _strategies(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["strategy"] for row in rows))


def _estimate(rows: Iterable[dict[str, Any]], measure: str, **group: str) -> Estimate:
    value = estimate([row[measure] for row in rows if group.items() <= row.items()])
    assert value is not None, group
    return value


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|---|{'---:|' * (len(names) - 1)}"
    for row in rows:
        yield f"| {' | '.join((f'`{row[0]}`', *row[1:]))} |"


if __name__ == "__main__":
    sys.exit(write(PAGE, page(PAGE.read_text()), __doc__))
