"""The report of a live run, of results that are stored in `live-run`: three ways, two numbers of
Services, three rounds and every measure.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from kbe_nat import lab
from kbe_nat.lab.identity import values_hash
from kbe_nat.lab.live.scenario import Measure
from kbe_nat.lab.live.tables import QUANTITIES, TABLES_OF
from kbe_nat.lab.plots.captions import caption
from kbe_nat.lab.plots.catalog import PLOTS
from kbe_nat.lab.plots.series import Drawing, drawing
from kbe_nat.lab.result import Result

pytest.importorskip("matplotlib")
STORED = Path(__file__).parent / "live-run"
LIVE = [plot for plot in PLOTS if plot.table in ("medians", "latency")]


@pytest.fixture
def stored() -> Result:
    return Result(STORED)


@pytest.fixture
def single(tmp_path: Path) -> Result:
    """The same with its first round, and one number of Services."""
    for path in STORED.iterdir():
        shutil.copy(path, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["scenario"]["rounds"] = 1
    manifest["scenario_hash"] = values_hash(manifest["scenario"])
    manifest["cells"] = [
        cell
        for cell in manifest["cells"]
        if cell["round"] == 0 and cell["services"] in (0, 1) and cell["run"] == 0
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for path in tmp_path.glob("*.csv"):
        with path.open() as lines:
            reader = csv.DictReader(lines)
            rows = [r for r in reader if r["services"] in ("0", "1") and r.get("round", "0") == "0"]
        with path.open("w") as file:
            writer = csv.DictWriter(file, reader.fieldnames or ())
            writer.writeheader()
            for row in rows:
                if path.stem == "medians":
                    row |= {"rounds": "1", "low": row["median"], "high": row["median"]}
                writer.writerow(row)
    return Result(tmp_path)


def _drawings(result: Result) -> dict[str, Drawing]:
    images = {plot.name: drawing([result], plot) for plot in LIVE}
    return {name: image for name, image in images.items() if image is not None}


def test_every_measure_has_a_plot_and_every_quantity_a_panel(stored: Result) -> None:
    images = _drawings(stored)
    assert images.keys() == {plot.name for plot in LIVE}
    drawn = {
        (table, quantity)
        for plot in LIVE
        for table in plot.where.get("table", ())
        for quantity in plot.where.get("quantity", ())
        or [q.name for q in QUANTITIES if q.table == table]
    }
    assert drawn == {(each.table, each.name) for each in QUANTITIES}
    tables = {table for table, _ in drawn} | {"trials", "histograms"}
    assert {name for names in TABLES_OF.values() for name in names} == tables
    assert TABLES_OF.keys() == {kind.__name__ for kind in Measure.__subclasses__()}


def test_ways_stand_in_the_order_of_the_scenario_with_their_medians(stored: Result) -> None:
    images = _drawings(stored)
    medians = {
        (row["table"], row["quantity"], row["case"], row["way"], row["services"]): row
        for row in stored.rows("medians")
    }
    (panel,) = images["throughput"].panels
    assert panel.unit == "packets/s"
    assert [line.label for line in panel.lines["median"]] == ["nft-dnat", "forward", "every-packet"]
    for line in panel.lines["median"]:
        for services, point in line.points.items():
            row = medians["throughput", "rate", "loss 0.5 %", line.label, services]
            assert (point.middle, point.low, point.high) == (row["median"], row["low"], row["high"])
    assert [panel.title for panel in images["latency-p999"].panels] == [
        "first-packet, load 0/s",
        "first-packet, load 5,000/s",
        "round-trip, load 0/s",
        "round-trip, load 5,000/s",
    ]
    assert [panel.title for panel in images["connections"].panels] == ["rate", "p50", "p99"]
    labels = [line.label for line in images["latency-load"].panels[0].lines["p50_us"]]
    assert [label.split(" · ")[0] for label in labels] == sorted(
        (label.split(" · ")[0] for label in labels),
        key=["nft-dnat", "forward", "every-packet"].index,
    )
    assert images["latency-load"].x is not None and images["latency-load"].x.name == "load"


def test_one_round_has_no_interval(single: Result) -> None:
    images = _drawings(single)
    assert images["throughput"].kind == "dots"
    for page in lab.report([single]):
        assert not [text for row in page.rows for text in row if "±" in text or " to " in text]
    assert "repeats" not in caption(images["throughput"], has_events=False)


def test_pages_and_pictures_of_a_stored_run(single: Result, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    lab.write_report([single], tmp_path / "report.html", tmp_path / "plots")
    text = (tmp_path / "report.html").read_text()
    assert "Values of one round, which has no intervals." in text
    svg = (tmp_path / "plots/latency-p99.svg").read_text()
    for words in ("round-trip, load 5,000/s", "every-packet", "median, µs"):
        assert words in svg
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"bulk.svg", "cpu.png", "capacity.svg", "programming.svg", "changes.svg"} <= written


def test_intervals_of_medians_have_digits_that_are_known(stored: Result) -> None:
    pages = {page.title: page for page in lab.report([stored])}
    page = pages["Programming: seconds, ipv4 (s)"]
    assert page.rows[0][:3] == ["nft-dnat", "1", "0.0329 (0.0317 to 0.0374)"]
    for page in pages.values():
        for row in page.rows:
            for text in row[-page.numbers :] if page.numbers else ():
                assert not re.search(r"\d{4,}\.\d|\d\.\d{7,}", text), (page.title, text)
