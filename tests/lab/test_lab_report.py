"""The HTML report: what it says, what it lets a browser do, and how it looks in Chromium."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.browser import Browser, absent_program
from harness.scenarios import poisson, scenario, service
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.identity import values_hash
from kbe_nat.lab.result import Result

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;$x_1$ ☃"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with names that would do harm if a page showed them as they are."""
    values = scenario(
        services=[service(3)],
        traffic=[poisson(60)],
        strategies=["mh", "rendezvous", {"name": "python", "class": "mine"}],
        timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 2}],
        repeats=3,
        question=f"Why? {HOSTILE}",
        expect=HOSTILE,
    )
    folder = tmp_path_factory.mktemp("report") / "a run"
    result = lab.run(values, folder, classes={"mine": First})
    _rename(folder, "python(class=mine)", HOSTILE)
    lab.write_report([result], folder / "report.html", folder / "plots")
    return result


class First:
    """A strategy that takes the first backend."""

    consistent = True

    def __init__(self, backends: list[Any], seed: int) -> None: ...

    def pick(self, hash: int, loads: list[int]) -> int | None:
        return 0


def _rename(folder: Path, before: str, after: str) -> None:
    quoted = '"' + after.replace('"', '""') + '"'
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace(before, quoted))


class Document(HTMLParser):
    """Elements, and the text of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.captions: list[str] = []
        self._is_caption = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._is_caption = tag == "caption"

    def handle_data(self, data: str) -> None:
        if self._is_caption:
            self.captions.append(data)
            self._is_caption = False


def test_it_holds_all_that_it_needs_and_lets_nothing_else_run(run: Result) -> None:
    text = (run.folder.path / "report.html").read_text()
    document = Document(text)
    names = [name for name, _ in document.elements]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "foreignObject"} & set(names)
    for name, attributes in document.elements:
        assert "style" not in attributes and not any(key.startswith("on") for key in attributes)
        for key in ("src", "href", "xlink:href"):
            link = attributes.get(key) or ""
            assert not re.match(r"[a-z]+:(?!,$)|//", link), (name, link)
    (policy,) = [a["content"] for n, a in document.elements if n == "meta" and "http-equiv" in a]
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    identifiers = [a["id"] for _, a in document.elements if "id" in a]
    assert len(set(identifiers)) == len(identifiers)


def test_it_says_the_question_the_answer_the_method_and_the_machine(run: Result) -> None:
    text = (run.folder.path / "report.html").read_text()
    assert "<h1>small</h1>" in text
    assert "Why? &lt;/title&gt;&lt;script&gt;" in text
    for words in (
        "Student&#39;s t",
        "established connections whose backend died in the event",
        run.manifest.machine["kernel"],
        run.manifest.scenario_hash,
        "dictionary.csv",
        'href="plots/balance.svg"',
        "<code>max_over_mean</code>",
        "alert(<wbr>1)",
    ):
        assert words in text, words
    captions = Document(text).captions
    assert "Balance: difference from mh, in pairs" in captions
    assert [page.title for page in lab.report([run])] == captions
    assert ">none</td>" in text


def test_equal_runs_have_equal_reports(run: Result, tmp_path: Path) -> None:
    for name in ("a", "b"):
        lab.write_report([run], tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert 'href="../' in (tmp_path / "a.html").read_text(), "links lead to the run"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if package := absent_program():
        pytest.skip(f"{package} is not installed")
    with Browser(tmp_path) as window:
        yield window


def test_it_opens_sorts_and_prints_in_chromium(run: Result, browser: Browser) -> None:
    browser.resize(1280, 900)
    browser.open((run.folder.path / "report.html").resolve().as_uri())
    assert browser.run("return typeof alert === 'function' && document.title") == "small"
    assert HOSTILE in browser.text(".question")
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.resize(width, 900)
            browser.prefer(scheme)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(HIDDEN) == 0, "all of a plot is seen without scrolling sideways"
            ink, ground = browser.run(COLOURS)
            assert _contrast(ink, ground) > 7, (width, scheme, ink, ground)
    assert browser.run(COLUMN, 3)[:2] == browser.run(COLUMN, 3)[:2]
    browser.resize(1280, 900)
    # By keys alone: Tab moves to the first head of a table, Enter sorts, and turns around.
    browser.run("document.querySelector('.table thead button').focus()")
    for key, order in (("Enter", "ascending"), ("Enter", "descending")):
        browser.press(key)
        assert browser.run(SORTED) == order
        texts = browser.run(COLUMN, 0)
        assert texts == sorted(texts, key=str.lower, reverse=order == "descending")
    browser.run("document.querySelectorAll('.table thead button')[3].click()")
    numbers = [float(text.split(" ")[0]) for text in browser.run(COLUMN, 3)]
    assert numbers == sorted(numbers) and len(set(numbers)) > 2
    assert browser.console() == []


def test_it_prints_on_a4_with_all_tables(run: Result, browser: Browser, tmp_path: Path) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    browser.prefer("dark")
    browser.open((run.folder.path / "report.html").resolve().as_uri())
    browser.print(tmp_path / "report.pdf")
    document = pdfium.PdfDocument(tmp_path / "report.pdf")
    text = ""
    for page in document:
        width, height = page.get_size()
        assert (round(width), round(height)) == (595, 842)
        text += page.get_textpage().get_text_bounded()
        pixel = page.render(scale=0.2).to_numpy()[3, 3]
        assert pixel.min() > 250, "paper stays white"
    text = " ".join(text.split())
    for page in lab.report([run]):
        assert page.title in text
        for row in page.rows:
            assert row[-1] in text
    for plot in ("Disruption: choices that an event changed", "Second by second"):
        assert plot in text
    document.close()


def test_reports_of_the_command_line(
    run: Result, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(scenario(strategies=["rr", "mh"], repeats=2)))
    first, second = tmp_path / "a", tmp_path / "b"
    assert main(["lab", "run", str(file), "-d", str(first)]) == 0
    assert f"Report with plots: {first}/report.html" in capsys.readouterr().out
    assert (first / "plots/balance.svg").exists()
    assert main(["lab", "run", str(file), "-d", str(second), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["table"] == "balance"
    target = tmp_path / "both.html"
    assert main(["lab", "report", str(first), str(second), "--html", str(target)]) == 0
    text = target.read_text()
    assert "comparison of runs" in text and 'href="b/balance.csv"' in text
    assert main(["lab", "report", str(first), "--html", str(tmp_path / "no/where.html")]) == 2
    assert "no/where" in capsys.readouterr().err
    (first / "report.html").unlink()
    assert main(["lab", "report", str(first), "-o", "json"]) == 0
    assert not (first / "report.html").exists(), "programs want nothing written"
    assert main(["lab", "report", str(first)]) == 0
    assert (first / "report.html").exists()


def test_times_of_another_machine_are_not_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = (tmp_path / name for name in ("a", "b"))
    for folder in (first, second):
        lab.run(scenario(), folder)
    manifest = json.loads((second / "manifest.json").read_text())
    manifest["machine"]["cpu"] = "Another"
    (second / "manifest.json").write_text(json.dumps(manifest))
    assert main(["lab", "report", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    assert "Processor time (costs, changes) is not compared: the processor is " in out
    assert f"and Another in {second}" in " ".join(out.split())
    assert "Balance" in out and "first packet ns" not in out and "build ns" not in out
    manifest["scenario"]["services"][0]["backends"][0]["count"] = 3
    manifest["scenario_hash"] = values_hash(manifest["scenario"])
    (second / "manifest.json").write_text(json.dumps(manifest))
    assert main(["lab", "report", str(first), str(second)]) == 2
    reason = "the scenarios differ: services[0].backends[0].count is 3, and was 2"
    assert reason in capsys.readouterr().err


def _contrast(first: str, second: str) -> float:
    lights = sorted(map(_light, (first, second)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _light(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of rgb(r, g, b)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


COLOURS = (
    "const text = document.querySelector('.plots svg text');"
    "const figure = text.closest('figure');"
    "return [getComputedStyle(text).fill, getComputedStyle(figure).backgroundColor]"
)
HIDDEN = (
    "return [...document.querySelectorAll('.plots .scroll')]"
    ".filter((each) => each.scrollWidth > each.clientWidth).length"
)
COLUMN = (
    "return [...document.querySelector('.table tbody').rows]"
    ".map((row) => row.cells[arguments[0]].textContent)"
)
SORTED = "return document.querySelector('.table th').getAttribute('aria-sort')"
