"""The benchmarks of datapaths run with few rounds, and print well-formed tables; no times."""

import shutil

import pytest

from benches.datapath import connects, established
from benches.datapath.beside import BASELINE, compare
from kbe_nat.family import Family
from kbe_nat.lab.live.ways import WAYS

FIELDS = {"least", "median", "least_ratio", "ratio_p25", "ratio_p50", "ratio_p75"}


def usable(*ways: str) -> None:
    for reason in filter(None, (WAYS[way].missing() for way in ways)):
        pytest.skip(reason)


def assert_table(text: str, rows: int) -> None:
    """Every row has as many cells as the head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == rows + 2
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.name)
def test_established_packets_are_timed_on_every_way(family: Family) -> None:
    """It ends the run when the cache did not carry what was to be measured."""
    usable("cached")
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    rows = established.summary(established.measure(family, 10))
    assert set(rows) == set(established.TITLES)
    for kinds in rows.values():
        assert set(kinds) == set(established.KINDS)
        assert all(set(row) == FIELDS for row in kinds.values())
        assert kinds["rr"]["least"] > 0
    assert_table(established.page({family.name: rows}, 10), len(rows))


def test_connects_are_timed_on_every_way() -> None:
    usable(*connects.WAYS)
    results = {"1": connects.measure(1, 3, 0.05), "20": connects.measure(20, 3, 0.05)}
    assert [tuple(rows) for rows in results.values()] == [connects.WAYS, connects.MANY_WAYS]
    for rows in results.values():
        assert all(row["ratio_p50"] == 1 for row in rows[BASELINE].values())
    assert_table(connects.page(results, 3, 0.05), len(connects.WAYS) + len(connects.MANY_WAYS))


def test_ratios_are_those_of_the_rounds() -> None:
    # Both slow together: the medians' own ratio, 2.75, would not show it.
    row = compare([30.0, 60.0, 120.0], [20.0, 30.0, 60.0], [10.0, 10.0, 10.0])
    assert (row["least"], row["median"], row["least_ratio"]) == (20, 50, 2)
    assert row["ratio_p50"] == pytest.approx(2.2)
    assert compare([5.0, 8.0], [4.0, 8.0], is_rate=True)["least"] == 8
