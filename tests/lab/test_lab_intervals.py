"""Intervals: that they stay where their measure can be, hold it as often as they say, and are
written so that one can read them.
"""

import math
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scenarios import poisson, scenario, service
from kbe_nat import lab
from kbe_nat.lab.plots.catalog import PLOTS
from kbe_nat.lab.plots.series import drawing
from kbe_nat.lab.report import headline
from kbe_nat.lab.result import Result
from kbe_nat.lab.statistics import Range, estimate, figure, interval_words
from kbe_nat.lab.tables import TABLES

SHARE = Range(0.0, 1.0)
COUNT = Range(0.0, math.inf)


@pytest.mark.parametrize(
    ("values", "bounds", "text"),
    [
        ([0.9, 1.0, 1.0], SHARE, "0.967 (0.823 to 1)"),
        ([0.0, 0.0, 1.0], SHARE, "0.33 (0 to 1)"),
        ([0, 2], COUNT, "1.0 (0 to 13.7)"),
        ([0.25, 0.2500001], SHARE, "0.250000 ±0.000001"),
        ([0.25, 0.25 + 1e-12], SHARE, "0.250000 ±<0.000001"),
        ([0.5, 0.5], SHARE, "0.5 ±0"),
        ([0.5], SHARE, "0.5"),
        ([1e-10, 2e-10], SHARE, "1.5e-10 (0 to 7.9e-10)"),
        ([12345.6, 12399, 12400], COUNT, "12,382 ±77"),
        ([1e9, 1.1e9, 1e9], COUNT, "1,033,333,333 ±143,421,758"),
        ([123.4, 123.5, 123.6], COUNT, "123.50 ±0.25"),
        ([0.001, 0.0011, 0.00105], SHARE, "0.00105 ±0.00012"),
        ([0.3, -0.9, -0.9], SHARE.of_differences(), "-0.5 (-1 to 1)"),
    ],
)
def test_an_interval_is_written_to_the_digits_that_it_knows(
    values: list[float], bounds: Range, text: str
) -> None:
    assert str(estimate(values, bounds=bounds)) == text


def test_medians_are_written_likewise() -> None:
    assert interval_words(1234.5678, 1100.0, 1240.0) == "1,235 (1,100 to 1,240)"
    assert interval_words(0.5, 0.5, 0.5) == "0.5 ±0"
    assert figure(-0.0) == "0"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_an_interval_stays_within_its_measure(values: list[float]) -> None:
    value = estimate(values, bounds=SHARE)
    assert value is not None
    assert 0 <= value.low <= value.mean <= value.high <= 1
    text = str(value)
    assert re.fullmatch(r"[\d.e-]+( ±<?[\d.e-]+| \([\d.e-]+ to [\d.e-]+\))?", text), text
    assert len(text) < 36


def test_a_cut_interval_holds_the_mean_as_often() -> None:
    """Shares of four draws near the end, where most intervals are cut."""
    draw = Random(1)
    held = cut = 0
    for _ in range(2000):
        values = [sum(draw.random() < 0.9 for _ in range(40)) / 40 for _ in range(5)]
        value = estimate(values, bounds=SHARE)
        assert value is not None and value.half is not None
        held += value.low <= 0.9 <= value.high
        cut += value.high < value.mean + value.half
    assert held / 2000 > 0.93 and cut > 50


@pytest.fixture(scope="module")
def run() -> Result:
    """Few connections: intervals of all measures are wide."""
    return lab.run(
        scenario(
            services=[service(3)],
            traffic=[poisson(2)],
            strategies=["random", "mh"],
            memory=["conntrack"],
            timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 2}],
            repeats=2,
        )
    )


def test_reports_and_plots_show_nothing_that_cannot_be(run: Result) -> None:
    for page in lab.report([run]):
        if "difference" in page.title:
            continue
        for row in page.rows:
            for name, text in zip(page.columns[-page.numbers :], row[-page.numbers :], strict=True):
                assert not text.startswith("-") or text == "-", (page.title, name, text)
                numbers = [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,.]*", text)]
                if "±" in text:
                    assert numbers[0] - numbers[1] >= -(10**-6), (page.title, name, text)
                if name in ("connections share", "jain", "keys moved"):
                    assert sum(numbers) <= 1.0001 or "(" in text, (page.title, name, text)
    for plot in PLOTS:
        drawn = drawing([run], plot)
        for panel in drawn.panels if drawn else ():
            for name, lines in panel.lines.items():
                (column,) = [each for each in TABLES[plot.table] if each.name == name]
                for line in lines:
                    for point in line.points.values():
                        assert column.range.low <= point.low <= point.middle <= point.high
                        assert point.high <= column.range.high or plot.is_total


def test_shares_stand_beside_the_fair_ones(run: Result) -> None:
    (page,) = [page for page in lab.report([run]) if page.title.startswith("Shares")]
    assert page.columns[-2:] == ["connections share", "connections share fair"]


@pytest.mark.parametrize(("repeats", "words"), [(1, "one repeat"), (2, "95 % intervals")])
def test_one_repeat_is_not_said_to_have_an_interval(repeats: int, words: str) -> None:
    # A module of another revision is told of in a line of its own.
    lines = headline(lab.run(scenario(repeats=repeats)))
    (line,) = [line for line in lines if words in line]
    assert f"{repeats} repeat{'s' * (repeats > 1)} from seed" in line
