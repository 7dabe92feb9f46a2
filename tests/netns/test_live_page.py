"""The live page of a daemon in a namespace, as Chromium shows it."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.browser import Browser, absent_program
from harness.daemons import NOBODY, SEED, VIP, Daemon, curl
from harness.waiting import eventually
from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

PAGE = "http://127.0.0.1:10249/"
ANOTHER = """apiVersion: v1
kind: Service
metadata: {name: another}
spec: {clusterIP: 172.30.0.77, ports: [{name: web, port: 80}]}
"""
HOSTILE = """apiVersion: v1
kind: Service
metadata: {name: "<img src=x onerror=document.title='owned'>"}
spec: {clusterIP: 172.30.0.78, ports: [{port: 80}]}
"""
ONE_DATAPATH = pytest.mark.parametrize(
    "daemon", [DatapathKind.FIRST_PACKET], indirect=True, ids=str
)
"""For tests without packets."""
FRESH_SECONDS = 2.0


@pytest.fixture(scope="module", autouse=True)
def _has_browser() -> None:
    if package := absent_program():
        pytest.skip(f"{package} is not installed")


@pytest.fixture(params=list(DatapathKind), ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "objects").mkdir()
    cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_acct", "1")
    with Daemon(cluster, tmp_path, request.param) as daemon:
        daemon.write("cluster.yaml", SEED)
        daemon.start("--node", "here")
        yield daemon


@pytest.fixture
def browser(daemon: Daemon, tmp_path: Path) -> Iterator[Browser]:
    """The page in the daemon's namespace, in step; at its end nothing was wrong with it."""
    node = daemon.cluster.node

    def connect(port: int) -> socket.socket:
        return inside(node.path, lambda: socket.create_connection(("127.0.0.1", port)))

    eventually(lambda: inside(node.path, lambda: _listens(10249)))
    with Browser(tmp_path, node.prefix, connect) as browser:
        browser.resize(1280, 900)
        browser.open(PAGE)
        browser.until("#state", "serving")
        yield browser
        assert str(browser.run("return document.title")).endswith("kbe-nat")
        assert [line for line in browser.console() if not _is_about_absence(line)] == []


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _is_about_absence(line: str) -> bool:
    """What a browser says while the daemon is away."""
    return "net::ERR_CONNECTION" in line or "net::ERR_INCOMPLETE_CHUNKED_ENCODING" in line


def names(browser: Browser) -> list[str]:
    """The Services in the table, from top to bottom."""
    script = "return [...document.querySelectorAll('#rows .open')].map((each) => each.innerText)"
    return list(browser.run(script))


def focused(browser: Browser) -> str:
    """The text of what has the focus, or its id."""
    return str(browser.run("return document.activeElement.id || document.activeElement.innerText"))


def test_a_new_service_is_there_within_two_seconds(daemon: Daemon, browser: Browser) -> None:
    browser.until("#rows", "simpleservice")

    def is_soon_there() -> bool:
        assert "another" not in browser.text("#rows")
        daemon.write("another.yaml", ANOTHER)
        eventually(lambda: any(row["name"] == "another" for row in daemon.get("services")))
        served = time.monotonic()
        browser.until("#rows", "another:web")
        is_soon = time.monotonic() - served < FRESH_SECONDS
        assert not is_soon or "new" in browser.text("#rows tr.fresh")
        browser.until("#count", "2 ports")
        (daemon.folder / "objects/another.yaml").unlink()
        eventually(lambda: names(browser) == ["default/simpleservice"])
        return is_soon

    # The browser may have to wait for the processor.
    assert any(is_soon_there() for _ in range(3))


def test_traffic_refusals_and_decisions_are_there(daemon: Daemon, browser: Browser) -> None:
    assert browser.text("#no-decisions") and browser.text("#no-refusals")
    daemon.write("nobody.yaml", NOBODY)
    browser.until("#rows", "nobody")
    for _ in range(3):
        assert VIP in curl(daemon.cluster)
    with pytest.raises(PlaygroundError):
        curl(daemon.cluster, "172.30.0.9:81")
    browser.until("#decided", "no-endpoints")
    browser.until("#decided", f"{VIP}:80")
    browser.until("#decided", "9876")
    if daemon.datapath is DatapathKind.EVERY_PACKET:
        browser.until("#refused", "no-endpoints")
    browser.run("document.getElementById('verdict').value = 'reject'")
    browser.run("document.getElementById('verdict').dispatchEvent(new Event('change'))")
    eventually(lambda: VIP not in browser.text("#decided"))
    browser.until("#decided", "no-endpoints")


def test_it_says_when_the_daemon_is_away_and_comes_back(daemon: Daemon, browser: Browser) -> None:
    browser.until("#rows", "simpleservice")
    daemon.end()
    browser.until("#absence", "No daemon since")
    assert browser.text("#state") == "no daemon"
    assert "simpleservice" in browser.text("#rows"), "what it knew stays"
    daemon.write("another.yaml", ANOTHER)
    daemon.start("--node", "here")
    browser.until("#rows", "another:web")
    eventually(lambda: not browser.text("#absence"))
    assert browser.text("#state") == "serving"


@ONE_DATAPATH
def test_f100_it_shows_what_a_daemon_waits_for(daemon: Daemon, browser: Browser) -> None:
    daemon.end()
    browser.until("#absence", "No daemon since")
    daemon.start("--node", "here", "--master", "http://127.0.0.1:9")
    browser.until("#state", "waiting for objects")
    browser.until("#errors", "services: ")
    browser.until("#errors", "The API server is not in step")


@ONE_DATAPATH
def test_what_objects_say_is_text(daemon: Daemon, browser: Browser) -> None:
    daemon.write("hostile.yaml", HOSTILE)
    browser.until("#errors", "<img src=x onerror=document.title='owned'>")
    assert browser.run("return document.images.length") == 0
    browser.run("location.hash = 'search=' + encodeURIComponent('<b>') + '&service=<i>x</i> 4'")
    browser.until("#count", "0 of 1 ports match")
    browser.until("#rows", "<i>x</i> is not served any more")
    assert browser.run("return document.querySelectorAll('#rows i').length") == 0


@ONE_DATAPATH
def test_it_works_by_keyboard(daemon: Daemon, browser: Browser) -> None:
    daemon.write("another.yaml", ANOTHER)
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: len(names(browser)) == 3)
    browser.press("/")
    assert focused(browser) == "search"
    browser.press(*"another")
    eventually(lambda: names(browser) == ["default/another:web"])
    browser.press("Escape")
    eventually(lambda: len(names(browser)) == 3)
    # A pod's address finds the Service that it serves.
    browser.press(*"172.17.0.3")
    eventually(lambda: names(browser) == ["default/simpleservice"])
    browser.press("ArrowDown", "Enter")
    assert focused(browser) == "default/simpleservice"
    browser.until(".detail", "172.17.0.3:9876")
    browser.until("#scope", "of default/simpleservice")
    assert browser.run("return document.querySelector('.open').ariaExpanded") == "true"
    # It is in the address, so that a link leads there.
    browser.open(str(browser.run("return location.href")))
    browser.run("location.reload()")
    browser.until(".detail", "172.17.0.3:9876")
    assert names(browser) == ["default/simpleservice"]
    browser.press("Escape")
    eventually(lambda: not browser.text(".detail"))


def test_a_connection_is_explained(daemon: Daemon, browser: Browser) -> None:
    browser.press("e")
    assert focused(browser) == "from"
    browser.press(*"10.0.2.100", "Tab", *f"{VIP}:80", "Enter")
    browser.until("#answer", f"TCP 10.0.2.100:49152 to {VIP}:80 is sent to 172.17.0.")
    browser.until("#answer", "by default/simpleservice")
    assert "172.17.0.4:9876" in browser.text("#answer"), "all that may serve it"
    browser.run("document.getElementById('to').value = 'nowhere'")
    browser.click("#question button")
    browser.until("#answer", "nowhere")
    assert VIP in curl(daemon.cluster)
    browser.until("#decided", "why?")
    browser.click("#decided .why")
    browser.until("#answer", f"to {VIP}:80 is sent to 172.17.0.")
    # The refused question.
    assert any("400 (Bad Request)" in line for line in browser.console())


@ONE_DATAPATH
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_its_window_in_light_and_dark(
    daemon: Daemon, browser: Browser, width: int, tmp_path: Path
) -> None:
    browser.until("#rows", "simpleservice")
    browser.click("#rows .open")
    browser.until(".detail", "9876")
    browser.resize(width, 844)
    grounds = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        grounds.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
        extent = browser.run("return document.scrollingElement.scrollWidth")
        assert extent <= width, "nothing is beyond its edge"
        browser.picture(tmp_path / f"{width}-{scheme}.png")
    light, dark = (sum(map(int, ground[4:-1].split(", "))) for ground in grounds)
    assert light > 600 and dark < 150
