"""How plots are laid out: whatever the names and the numbers of a run, every text is within the
picture, none lies on another, and matplotlib warns of nothing.
"""

import csv
import json
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import poisson, scenario, service
from kbe_nat import lab
from kbe_nat.lab.identity import values_hash
from kbe_nat.lab.plots import events_of, write_pictures
from kbe_nat.lab.plots.catalog import PLOTS
from kbe_nat.lab.plots.series import Drawing, drawing
from kbe_nat.lab.result import Result

matplotlib = pytest.importorskip("matplotlib")
from kbe_nat.lab.plots.figures import draw, sheets  # noqa: E402
from kbe_nat.lab.plots.style import SETTINGS, WIDTH  # noqa: E402
from kbe_nat.lab.plots.text import fold, width  # noqa: E402

STRATEGIES = 40
LETTERS = "WMai·(=,)-_ x"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Forty strategies for ten minutes, with source NAT and an event."""
    return lab.run(
        scenario(
            duration=600,
            services=[service(3)],
            traffic=[poisson(1)],
            strategies=[{"name": "ring", "virtual_nodes": n + 1} for n in range(STRATEGIES)],
            source_nat=["random"],
            timeline=[{"event": "scale", "at": 300, "service": "web", "backends": 2}],
            repeats=2,
        ),
        tmp_path_factory.mktemp("layout") / "run",
    )


def _variant(run: Result, folder: Path, names: list[str], repeats: int) -> Result:
    """The run as if it had these strategies, and so many repeats."""
    labels = dict.fromkeys(cell["strategy"] for cell in run.manifest.cells)
    renamed = dict(zip(labels, names, strict=False))
    folder.mkdir()
    manifest = json.loads((run.folder.path / "manifest.json").read_text())
    manifest["scenario"]["repeats"] = repeats
    manifest["scenario_hash"] = values_hash(manifest["scenario"])
    manifest["cells"] = [
        cell | {"strategy": renamed[cell["strategy"]]}
        for cell in manifest["cells"]
        if cell["strategy"] in renamed and cell["repeat"] < repeats
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for table in run.tables:
        with run.folder.table(table).open() as lines:
            rows = [
                row | {"strategy": renamed[row["strategy"]]}
                for row in csv.DictReader(lines)
                if row["strategy"] in renamed and int(row["repeat"]) < repeats
            ]
        with (folder / f"{table}.csv").open("w") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return Result(folder)


def _names(count: int, letters: int) -> list[str]:
    """Names of so many letters, which differ in their last ones."""
    ends = [chr(ord("A") + n) if letters == 1 else f"{n:02}"[-letters:] for n in range(count)]
    return [(LETTERS * 5)[: letters - len(end)] + end for end in ends]


def _drawings(result: Result) -> Iterator[Drawing]:
    for plot in PLOTS:
        image = drawing([result], plot)
        yield from () if image is None else sheets(image)


def _texts(figure: Any) -> Iterator[tuple[str, Any]]:
    """All that can be read, with the places that it takes."""
    for axes in figure.axes:
        (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        ticks = [tick for tick in axes.get_xticklabels() if left <= tick.get_position()[0] <= right]
        ticks += [tick for tick in axes.get_yticklabels() if low <= tick.get_position()[1] <= high]
        for tick in ticks:
            yield from _placed(tick)
        for text in (*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label):
            yield from _placed(text)
    for legend in figure.legends:
        for text in legend.get_texts():
            yield from _placed(text)
    yield from _placed(figure._suptitle)


def _placed(text: Any) -> Iterator[tuple[str, Any]]:
    if text.get_visible() and text.get_text().strip():
        yield text.get_text(), text.get_window_extent()


def _check(result: Result, checked: Callable[[Drawing], bool] = lambda _: True) -> set[str]:
    events = events_of(result)
    seen = set()
    for sheet in filter(checked, _drawings(result)):
        with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = draw(sheet, events)
            figure.draw_without_rendering()
        name = sheet.plot.name
        frame = figure.bbox
        assert frame.width == pytest.approx(WIDTH * figure.dpi)
        placed = list(_texts(figure))
        for words, box in placed:
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1
            assert inside and box.y1 <= frame.y1 + 1, (name, words, box, frame)
        for (here, box), (there, other) in combinations(placed, 2):
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across < 2 or down < 2, (name, here, there, box, other)
        for axes in figure.axes:
            assert axes.get_window_extent().width > figure.dpi * WIDTH * 0.3, name
            assert axes.get_window_extent().height > figure.dpi * 0.2, name
        seen.add(name.rstrip("-23456789"))
    return seen


@pytest.mark.parametrize(
    ("count", "letters", "repeats"), [(1, 1, 1), (2, 60, 2), (9, 25, 1), (40, 60, 2)]
)
def test_every_text_has_its_place(
    run: Result, tmp_path: Path, count: int, letters: int, repeats: int
) -> None:
    result = _variant(run, tmp_path / "variant", _names(count, letters), repeats)
    # Further parts of one plot are laid out as its first.
    seen = _check(result, lambda sheet: count < 40 or not sheet.plot.name[-1].isdigit())
    assert {"shares", "balance", "mapping", "seconds", "ports", "port-guesses"} <= seen


def test_rows_are_named_even_where_there_is_but_one(run: Result, tmp_path: Path) -> None:
    names = ["the only one"]
    result = _variant(run, tmp_path / "variant", names, 2)
    for sheet in _drawings(result):
        for panel in sheet.panels:
            for lines in panel.lines.values():
                assert [line.label for line in lines] == names, sheet.plot.name


def test_a_part_of_the_strategies_is_named_as_all_are() -> None:
    """Only mappings have keys that move."""
    result = lab.run(
        scenario(
            strategies=["rr", "mh"],
            memory=["conntrack"],
            timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 3}],
        )
    )
    (plot,) = [plot for plot in PLOTS if plot.name == "mapping"]
    image = drawing([result], plot)
    assert image is not None
    assert [line.label for line in image.panels[0].lines["keys_moved"]] == ["mh"]


def test_backends_have_whole_numbers_and_a_caption_that_is_true() -> None:
    from kbe_nat.lab.plots.captions import caption

    for count, strategies, words in (
        (21, 2, "Lines are the fair shares."),
        (6, 7, "Each stroke is a backend"),
        (2, 7, "Lines are the fair shares."),
    ):
        ways = [{"name": "ring", "virtual_nodes": n + 1} for n in range(strategies)]
        result = lab.run(scenario(services=[service(count)], strategies=ways))
        image = drawing([result], PLOTS[0])
        assert image is not None
        with matplotlib.rc_context(SETTINGS):
            figure = draw(image, [])
            figure.draw_without_rendering()
        if count > 4 and strategies < 7:
            for axes in figure.axes:
                assert all(tick == int(tick) for tick in axes.get_xticks())
        text = caption(image, has_events=False)
        assert words in text and "repeat." not in text and "Vertical" not in text


def test_ports_are_plotted_against_clients() -> None:
    result = lab.run(
        scenario(
            traffic=[poisson(40, kind="udp", lifetime=0)],
            source_nat=[
                "random",
                {"allocation": "blocks", "block_size": 10, "ports": [40000, 40099]},
            ],
            sweep=[{"field": "traffic[0].clients.count", "values": [5, 50]}],
            repeats=2,
        )
    )
    images = {sheet.plot.name.rstrip("-2"): sheet for sheet in _drawings(result)}
    for name in ("ports", "port-collisions", "port-guesses", "port-log"):
        x = images[name].x
        assert images[name].kind == "curves" and x is not None
        assert x.name == "traffic[0].clients.count"
    assert "exhausted" in images["port-collisions"].panels[0].lines
    _check(result, lambda sheet: sheet.plot.table == "ports")


def test_what_is_higher_than_a_page_is_spread_over_several(run: Result) -> None:
    (plot,) = [plot for plot in PLOTS if plot.name == "balance"]
    image = drawing([run], plot)
    assert image is not None
    parts = sheets(image)
    assert [part.plot.name for part in parts] == ["balance", "balance-2", "balance-3"]
    assert parts[1].plot.title.endswith("mean, 2 of 3")
    shown = [(panel.title, *panel.lines) for part in parts for panel in part.panels]
    assert shown == [(panel.title, *panel.lines) for panel in image.panels]


def test_letters_that_the_font_has_not_are_no_warning(run: Result, tmp_path: Path) -> None:
    result = _variant(run, tmp_path / "variant", ["漢字の戦略", "नीति"], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_pictures([result], tmp_path / "plots")
    assert "漢字の戦略" in (tmp_path / "plots/balance.svg").read_text()


def test_texts_are_folded_where_they_can_be() -> None:
    assert fold("mh", 1.0, 8) == "mh"
    assert fold("blocks(ports=40000-59999,block_size=200)", 1.4, 8).split("\n") == [
        "blocks(",
        "ports=40000-59999,",
        "block_size=200)",
    ]
    for words in ("W" * 60, "a-b_c" * 12, "", "a" * 7 + " " + "b" * 50):
        lines = fold(words, 1.0, 8).split("\n")
        assert all(width(line, 8) <= 1.0 for line in lines)
        assert "".join(lines).replace(" ", "") == words.replace(" ", "")


def test_ticks_are_told_apart() -> None:
    from matplotlib.figure import Figure

    from kbe_nat.lab.plots.scales import tick

    for low, high in ((0.0, 1.0), (1.0, 1.0), (0.25, 0.2500001), (3e8, 3.1e8), (0.0, 1e-7)):
        axes = Figure().subplots()
        axes.plot([low, high], [0, 1])
        tick(axes, "x", 2.5, is_whole=False)
        words = [axes.xaxis.get_major_formatter()(value, 0) for value in axes.get_xticks()]
        assert len(set(words)) == len(words) >= 2, words
        assert all(a < b for a, b in pairwise(axes.get_xticks()))
