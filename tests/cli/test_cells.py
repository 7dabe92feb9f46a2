"""Tables as `awk`, `cut` and `sort` read them: every row has a word for each heading, but for a
last column that is a sentence.
"""

from pathlib import Path

import pytest

from harness.full_engine import controller_with
from harness.verbs import SEED, WEIGHTED, Ran
from kbe_nat.cli.output import connect
from kbe_nat.cli.views import ENDPOINTS, SERVICES
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.rows import ConnectRow
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot


@pytest.fixture
def controller() -> Controller:
    """A Service with all that a cell can be of several things."""
    controller = controller_with(3)
    key = ("shop", "front")
    service = Service(
        *key,
        ("172.30.0.2",),
        (ServicePort("http", "tcp", 80, 30080),),
        load_balancer_ips=("203.0.113.1", "203.0.113.2"),
        affinity_seconds=10800,
    )
    part = EndpointSlice(
        "front-1",
        Family.IPV4,
        (SlicePort("http", "tcp", 8080), SlicePort("https", "tcp", 8443)),
        (Endpoint("10.0.0.2"), Endpoint("10.0.0.3")),
    )
    web = Service("default", "web", ("172.30.228.255",), (ServicePort("", "udp", 80),))
    old = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "udp", 9876),), (Endpoint("10.0.0.1"),)
    )
    controller.apply(Snapshot(2, (service, web), {key: (part,), ("default", "web"): (old,)}))
    return controller


def check(lines: list[str], *, has_sentence: bool = False) -> None:
    """Raises AssertionError for a row whose words are not one for each heading."""
    head, *rows = [line.split() for line in lines]
    assert rows
    for row in rows:
        if has_sentence:
            assert len(row) >= 2, row
        else:
            assert len(row) == len(head), (head, row)


@pytest.mark.parametrize(
    "line",
    [
        "get svc",
        "get svc -o wide",
        "get svc --show-labels",
        "get ep",
        "get ep -o wide",
        "get eps",
        "get flows",
        "get flows -o wide",
        "decisions",
        "decisions -o wide",
    ],
)
def test_each_row_of_a_list_has_a_word_for_each_heading(ask: Ran, line: str) -> None:
    assert ask("drain", "10.0.0.2", "--no-wait")[0] == 0
    code, out, _ = ask(*line.split())
    assert code == 0
    check(out.splitlines())


def test_cells_of_several_things_are_one_word(ask: Ran) -> None:
    ask("drain", "10.0.0.2", "--no-wait")
    [row] = ask("get", "svc", "front", "-n", "shop", "-o", "wide", "--no-headers")[1].splitlines()
    words = row.split()
    assert "203.0.113.1,+1-more" in words and "2,1-draining" in words and "10800s" in words
    assert words[-1] == (
        "cluster-ip:172.30.0.2:80,load-balancer:203.0.113.1:80,load-balancer:203.0.113.2:80,"
        "node-port:*:30080"
    )


def test_times_and_units_are_one_word() -> None:
    assert connect(ConnectRow(1, 0.1, 0.00021, 0.0243)) == ["0.21ms", "24ms"]
    titles = {each.title for listing in (SERVICES, ENDPOINTS) for each in listing.columns}
    assert not [title for title in titles if " " in title]


def test_counters_and_states_have_names_of_one_word(ask: Ran) -> None:
    for verb in ("stats", "status"):
        code, out, _ = ask("get", verb)
        assert code == 0
        for paragraph in out.strip().split("\n\n"):
            lines = paragraph.splitlines()
            # A title of a table stands above its headings.
            lines = lines if lines[0].startswith("field") else lines[1:]
            if len(lines) > 1:
                check(lines, has_sentence=lines[0].startswith("field"))


def test_checks_have_names_of_one_word(kbe: Ran) -> None:
    for row in kbe.json("doctor")["items"]:
        assert " " not in row["name"]


@pytest.mark.parametrize("line", ["", "--compare"])
def test_tables_of_a_replay_too(kbe: Ran, capture: Path, line: str) -> None:
    words = [line, WEIGHTED] if line else []
    code, out, _ = kbe("replay", "-f", SEED, capture, "--seed", "1", *words)
    assert code == 0
    tables = [part.splitlines() for part in out.strip().split("\n\n")]
    tables = [lines for lines in tables if len(lines) > 2]
    assert len(tables) == (3 if line else 1)
    for _, *lines in tables:
        check(lines)


def test_who_may_serve_is_told_in_words(kbe: Ran) -> None:
    words = ("--from", "10.0.2.15", "--to", "172.30.228.255:80")
    out = kbe("explain", "-f", SEED, *words)[1]
    lines = out.partition("Who may serve it\n")[2].split("\n\n")[0].splitlines()
    check(lines)
    assert sorted(line.split()[-1] for line in lines) == ["chosen", "no", "yes"]
