"""The plots of runs: which there are, what they say, and that equal runs give equal files."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.scenarios import poisson, scenario, service
from kbe_nat import lab
from kbe_nat.lab.plots import pictures, write_pictures
from kbe_nat.lab.plots.captions import caption
from kbe_nat.lab.plots.catalog import PLOTS, Plot
from kbe_nat.lab.plots.series import Drawing, drawing
from kbe_nat.lab.result import Result
from kbe_nat.lab.statistics import Range, estimate

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run() -> Result:
    """Three strategies that lose a backend."""
    return lab.run(
        scenario(
            services=[service(3)],
            traffic=[poisson(60)],
            strategies=["rendezvous", "mh", "modulo"],
            memory=["conntrack", "none"],
            timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 2}],
            repeats=3,
        )
    )


def _drawing(result: Result, name: str) -> Drawing:
    (plot,) = [plot for plot in PLOTS if plot.name == name]
    drawn = drawing([result], plot)
    assert drawn is not None
    return drawn


def test_every_table_of_a_run_has_a_plot() -> None:
    tables = {plot.table for plot in PLOTS}
    assert set(lab.run(scenario(repeats=1, source_nat=["random"])).tables) <= tables


def test_files_are_whole_and_equal_for_equal_runs(run: Result, tmp_path: Path) -> None:
    names = {each.plot.name for each, _ in write_pictures([run], tmp_path / "a")}
    assert {"shares", "balance", "disruption", "mapping", "seconds", "occupancy", "peak"} <= names
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    write_pictures([run], tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    svg = (tmp_path / "a" / "disruption.svg").read_text()
    for words in ("web scales to 2", "mh · none", "connections", "minimum", "moved", "broken"):
        assert words in svg
    assert "<dc:date>" not in svg and (tmp_path / "a" / "shares.png").read_bytes()[1:4] == b"PNG"
    patterns = set(re.findall(r'<pattern id="(\w+)"', svg))
    assert patterns, "bars are told apart without colours"


def test_an_interval_is_that_of_the_report(run: Result) -> None:
    drawn = _drawing(run, "balance")
    (panel,) = [panel for panel in drawn.panels if panel.title == "connections"]
    (line,) = [line for line in panel.lines["max_over_mean"] if line.label == "mh · conntrack"]
    samples = [
        row["max_over_mean"]
        for row in run.rows("balance")
        if (row["strategy"], row["memory"], row["quantity"], row["window"])
        == ("mh", "conntrack", "connections", "run")
    ]
    value = estimate(samples, bounds=Range(1.0, math.inf))
    assert value is not None
    point = line.points[0]
    assert (point.middle, point.low, point.high) == (value.mean, value.low, value.high)
    assert point.samples == tuple(samples)


def test_disruption_is_beside_its_minimum(run: Result) -> None:
    (panel,) = _drawing(run, "mapping").panels
    assert panel.title == "at 5 s, web scales to 2"
    for line in panel.lines["keys_moved"]:
        assert line.points[0].middle >= line.reference[0] * 0.99
        assert line.reference[0] == pytest.approx(1 / 3, abs=0.01)


def test_a_swept_number_is_the_axis_of_a_curve() -> None:
    result = lab.run(
        scenario(
            services=[service(4)],
            traffic=[poisson(50)],
            strategies=["random", "rr"],
            sweep=[{"field": "services[0].count", "values": [1, 10, 1000]}],
        )
    )
    drawn = _drawing(result, "balance")
    assert drawn.kind == "curves" and drawn.x is not None
    assert drawn.x.name == "services[0].count"
    assert [line.label for line in drawn.panels[0].lines["max_over_mean"]] == ["random", "rr"]
    assert list(drawn.panels[0].lines["max_over_mean"][0].points) == [1, 10, 1000]
    picture = {each.plot.name: image for each, image in pictures([result])}
    text = picture["balance"].svg.decode()
    assert ">1,000<" in text and "mathdefault" not in text, "the axis is logarithmic"


def test_many_events_are_added_up_but_for_shares_which_have_a_range() -> None:
    """Half of the keys move at each of eight departures and returns of one of two backends; when a
    third one is away for good, it is at most a third of them, once.
    """
    events = [
        {"event": "flapping", "at": 1, "service": "web", "backend": 0, "period": 1, "times": 4},
        {"event": "scale", "at": 9, "service": "web", "backends": 3},
    ]
    values = scenario(strategies=["mh", "modulo"], memory=["none"], timeline=events, repeats=2)
    result = lab.run(values)
    rows = [row["keys_moved"] for row in result.rows("events") if row["strategy"] == "mh"]
    drawn = _drawing(result, "mapping")
    assert drawn.note == "median and range of 9 events"
    (panel,) = drawn.panels
    point = panel.lines["keys_moved"][0].points[0]
    assert point.middle == pytest.approx(0.5, abs=0.02)
    assert (point.low, point.high) == (min(rows), max(rows))
    assert point.low < 0.4 and len(point.samples) == 9
    assert panel.lines["keys_moved"][0].reference[0] == 0.5
    assert "the median over all events" in caption(drawn, has_events=True)
    assert _drawing(result, "disruption").note == "all 9 together"


def test_a_table_of_its_own_interval_needs_a_line(run: Result) -> None:
    plot = Plot(
        "mine", "Mine", "balance", "dots", ("cv",), "", panel=("quantity",),
        where={"window": ("run",)}, interval=("jain", "max_over_mean"),
    )  # fmt: skip
    drawn = drawing([run], plot)
    assert drawn is not None
    point = drawn.panels[0].lines["cv"][0].points[0]
    assert point.low < 1 < point.high


def test_other_tables_of_the_same_name_are_passed_over(run: Result) -> None:
    plot = Plot("mine", "Mine", "balance", "dots", ("gbit_s",), "")
    assert drawing([run], plot) is None


def test_without_matplotlib_the_core_and_the_tables_work(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from kbe_nat import lab\n"
        "from kbe_nat.lab.plots import write_pictures\n"
        "from harness.scenarios import scenario\n"
        "result = lab.run(scenario())\n"
        "assert lab.report([result])\n"
        "try: write_pictures([result], Path(sys.argv[1]))\n"
        "except lab.LabError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "plots")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    )
    assert done.stdout.startswith("plots need matplotlib: pip install 'kbe-nat[lab]'")


def test_nothing_of_matplotlib_is_imported_before_something_is_drawn() -> None:
    program = (
        "import kbe_nat.cli.lab, kbe_nat.lab.plots, sys; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_page_says_what_reports_say() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/lab_page.py", "--check"], check=False)
    assert done.returncode == 0, "run tools/lab_page.py"
