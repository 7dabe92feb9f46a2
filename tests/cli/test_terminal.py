"""Terminals that are narrow, and terminals whose users want nothing but text."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from harness.captures import pcap
from harness.full_engine import VIP
from harness.verbs import (
    ROOT,
    SEED,
    START,
    WEIGHTED,
    Ran,
    all_on_terminal,
    handshake,
    on_terminal,
)
from kbe_nat.cli.table import Table
from kbe_nat.datapath.every_packet import EveryPacket

EXPLAIN = ["explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:80"]


def table(*, is_wrapped: bool = False) -> Table:
    made = Table("", ("name", "spare", "why"), spare=("spare",), is_wrapped=is_wrapped)
    made.add_row("one", "little", "the reason is a sentence of some length")
    return made


def test_a_narrow_terminal_leaves_out_the_spare_columns() -> None:
    [_, whole] = table().lines()
    assert whole == "one   little  the reason is a sentence of some length"
    assert list(table().lines(len(whole)))[1] == whole
    assert list(table().lines(len(whole) - 1)) == [
        "name  why",
        "one   the reason is a sentence of some length",
    ]
    assert list(table().lines(20)) == ["name  why", "one   the reason is…"]


def test_a_reason_goes_on_in_further_lines() -> None:
    assert list(table(is_wrapped=True).lines(30)) == [
        "name  why",
        "one   the reason is a sentence",
        "      of some length",
    ]
    assert len(list(table(is_wrapped=True).lines())) == 2, "one line where it is piped"


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize(
    "words", [EXPLAIN, ["doctor"], ["get", "status"]], ids=lambda words: words[0]
)
def test_a_report_fits_and_lacks_nothing(socket: Path, words: list[str], columns: int) -> None:
    _, text = on_terminal(words, columns, KBE_NAT_SOCKET=str(socket), NO_COLOR="1")
    assert "…" not in text
    # The sentence and the chains of explain are no tables.
    lines = [line for line in text.splitlines()[1:] if "KUBE-" not in line]
    assert all(len(line) <= columns for line in lines)
    if words is EXPLAIN:
        _, whole = on_terminal(words, 2000, KBE_NAT_SOCKET=str(socket), NO_COLOR="1")
        assert text.split() == whole.split()


def test_narrow_lists_keep_what_matters_most(socket: Path) -> None:
    for words, titles in (
        (["get", "svc"], ["service", "cluster-ip", "port(s)"]),
        (["get", "flows"], ["client", "frontend", "backend"]),
    ):
        code, text = on_terminal(words, 60, KBE_NAT_SOCKET=str(socket))
        head, *rows = text.splitlines()
        assert (code, [title for title in titles if title in head]) == (0, titles)
        assert rows and all(len(row) <= 60 and "…" not in row for row in rows)


def test_columns_without_room_are_named(socket: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(columns: int, *words: str) -> str:
        capfd.readouterr()
        on_terminal(["get", "svc", *words], columns, KBE_NAT_SOCKET=str(socket))
        return capfd.readouterr().err

    assert said(200) == said(60, "-o", "wide") == ""
    assert said(80) == (
        "kbe-nat: no room for external-ip, strategy: -o wide shows them, a pipe too\n"
    )
    assert "no room for type, external-ip, strategy" in said(60)


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}], ids=str)
@pytest.mark.parametrize(
    "words",
    [EXPLAIN, ["top", "--iterations", "2", "-d", "0.1"], ["drain", VIP], ["get", "stats"]],
    ids=lambda words: words[0],
)
def test_a_plain_terminal_gets_nothing_but_text(
    socket: Path, words: list[str], plain: dict[str, str]
) -> None:
    if words[0] == "drain":
        words = ["drain", "10.0.0.1", "--no-wait"]
    code, text = on_terminal(words, 100, KBE_NAT_SOCKET=str(socket), **plain)
    assert (code, "\x1b" in text) == (0, False)
    code, text = on_terminal(words, 100, KBE_NAT_SOCKET=str(socket))
    assert (code, "\x1b" in text) == (0, True)


def test_top_goes_on_into_a_pipe(socket: Path) -> None:
    command = [sys.executable, "-m", "kbe_nat", "top", "-d", "0.1", "--socket", str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        heads = 0
        while heads < 3:
            line = process.stdout.readline()
            assert line, "it ended"
            heads += line.startswith("service ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_top_prints_a_document_a_turn(ask: Ran) -> None:
    flags = ("--iterations", "2", "-d", "0.1", "-n", "default", "-o", "json")
    code, out, _ = ask("top", *flags)
    turns = [json.loads(line) for line in out.splitlines()]
    assert (code, [turn["kind"] for turn in turns]) == (0, ["Load", "Load"])
    assert turns[0]["time"] < turns[1]["time"] and turns[1]["seconds"] >= 0.1
    [endpoint] = turns[1]["endpoints"]
    assert (endpoint["name"], endpoint["active"], endpoint["new_per_second"]) == ("web", 3, 0)
    assert ask("top", *flags[:-4], "-n", "nowhere", "-o", "json")[1].count('"endpoints": []') == 2


def test_top_says_what_is_not_counted_ahead_of_its_screen(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EveryPacket, "counts_bytes", lambda self: False)
    text = watched_top(socket, "\x1b[J")
    assert 0 <= text.find("packets and bytes are not counted; ") < text.find("\x1b[?1049h")


def test_top_in_one_place_gives_the_terminal_back(socket: Path) -> None:
    text = watched_top(socket, "service ")
    assert text.startswith("\x1b[?1049h\x1b[?25l") and text.endswith("\x1b[?25h\x1b[?1049l")


def test_so_many_turns_of_top_stay_on_the_terminal(socket: Path) -> None:
    words = ["top", "--iterations", "2", "-d", "0.1"]
    code, text = on_terminal(words, 100, KBE_NAT_SOCKET=str(socket))
    assert (code, text.count("packets/s,"), "\x1b[?1049h" in text) == (0, 2, False)


def test_top_without_a_daemon_leaves_the_terminal_as_it_is(tmp_path: Path) -> None:
    nowhere = tmp_path / "control.sock"
    text = all_on_terminal(["top"], 100, KBE_NAT_SOCKET=str(nowhere))
    assert text.startswith(f"kbe-nat: {nowhere}: no daemon answers here") and "\x1b" not in text


def watched_top(socket: Path, awaited: str) -> str:
    """All that `top` writes to a terminal, which is ended by Ctrl-C behind what is awaited."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "kbe_nat", "top", "-d", "0.1", "--socket", str(socket)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    text = ""
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        while awaited not in text:
            text += os.read(master, 65536).decode()
        process.send_signal(signal.SIGINT)
        with suppress(OSError):
            while more := os.read(master, 65536):
                text += more.decode()
        assert process.wait(30) == 130
    os.close(master)
    return text


def test_top_of_nothing_says_so(ask: Ran) -> None:
    code, out, _ = ask("top", "-n", "nowhere", "--iterations", "1", "-d", "0.1")
    assert (code, out.splitlines()[-1]) == (0, "There are no endpoints.")


def test_a_bar_of_progress_is_not_broken_by_warnings() -> None:
    words = ["replay", "-f", SEED, str(ROOT / "examples/traffic.pcap")]
    for flag in (["--compare"], ["--at", "1s", "-f"]):
        text = all_on_terminal([*words, *flag, WEIGHTED], 200)
        bar = text.index("traffic.pcap  [")
        assert 0 <= text.find("no Pod of it is given") < bar
        assert text.rfind("no Pod of it is given") < bar


def test_what_follows_says_which_columns_have_no_room(socket: Path) -> None:
    for words, columns in (
        (["get", "svc", "-w"], "type, external-ip, strategy"),
        (["decisions", "-f"], "proto, frontend, service-port, chosen-by, endpoints-then"),
    ):
        command = [sys.executable, "-m", "kbe_nat", *words, "--socket", str(socket)]
        master, slave = pty.openpty()
        environment = {**os.environ, "COLUMNS": "70"}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdout=slave, stderr=pipe, text=True, env=environment
        ) as process:
            assert process.stderr
            said = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            process.wait(30)
        os.close(master)
        os.close(slave)
        assert said.startswith(f"kbe-nat: no room for {columns}"), words


def test_no_cell_in_the_middle_of_a_list_is_empty(ask: Ran) -> None:
    """So that awk counts columns right."""
    for words in (("get", "ep"), ("get", "flows"), ("get", "svc", "-o", "wide")):
        head, *rows = ask(*words)[1].splitlines()
        ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", head)]
        starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", head)]
        for row in rows:
            bounds = zip(starts, [*starts[1:], None], strict=True)
            assert all(row[start:end].strip() for start, end in bounds), (row, ends)


def test_one_of_a_thing_is_no_plural(ask: Ran, tmp_path: Path) -> None:
    [first] = {*handshake(1)[:1]}
    capture = tmp_path / "one.pcap"
    capture.write_bytes(pcap([(START, first)], 1))
    _, out, _ = ask("replay", "-f", SEED, capture, "--compare", SEED, "--seed", "1")
    assert out.startswith("1 packet of ") and "None of 1 flow would fare differently." in out
    _, _, err = ask("explain", "-f", SEED, capture, "--packet", "2")
    assert f"{capture} has 1 packet, so there is no number 2" in err
    assert ": 3 active, 3 so far" in ask("describe", "svc", "web")[1]


def test_top_ends_after_its_looks(ask: Ran) -> None:
    code, out, _ = ask("top", "--iterations", "2", "-d", "0.1")
    assert (code, out.count("packets/s,")) == (0, 2)


def test_a_list_of_decisions_that_goes_on_has_its_heading(socket: Path) -> None:
    command = [sys.executable, "-m", "kbe_nat", "decisions", "-f", "--socket", str(socket)]
    for flags, first in (([], "time"), (["--no-headers"], "20")):
        with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline().startswith(first)
            if not flags:
                assert process.stdout.readline().startswith("20"), "one heading"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130


def test_what_is_drained_of_the_last_backend_is_said(ask: Ran, socket: Path) -> None:
    code, out, err = ask("drain", "web", "--no-wait", "-o", "json")
    said = "kbe-nat: no endpoint is left for default/web: new connections will be rejected\n"
    assert (code, err) == (0, said)
    assert '"unserved": ["default/web"]' in out
    assert '"unserved": []' in ask("drain", "web", "--undo", "-o", "json")[1]


def test_several_backends_are_drained_at_once(ask: Ran) -> None:
    code, out, err = ask("drain", "10.0.0.1:9876", "nowhere", "--no-wait")
    assert (code, out) == (1, "") and '"default/nowhere" not found' in err
    assert ask("get", "status", "-o", "jsonpath={.drains}")[1] == "[]", "none of them"
    code, out, _ = ask("drain", "10.0.0.1:9876", "svc/web", "--no-wait")
    assert (code, out) == (
        0,
        "10.0.0.1:9876: 3 connections left after 0 s\ndefault/web: 3 connections left after 0 s\n",
    )
    assert "1,1-draining" in ask("get", "svc")[1], "the list says so"
    assert ask.json("get", "svc", "web")["draining"] == 1
    assert "1,1-draining" not in ask("get", "svc", "--no-headers", "-o", "name")[1]


def test_a_drain_is_undone_once(ask: Ran) -> None:
    assert ask("drain", "web", "--no-wait")[0] == 0
    assert ask("drain", "10.0.0.1", "--undo") == (0, "10.0.0.1 gets new connections again\n", "")
    for name in ("10.0.0.1", "10.0.0.1:9876", "web"):
        shown = f"default/{name}" if name == "web" else name
        said = f"{shown} was not drained: nothing to undo\n"
        assert ask("drain", name, "--undo") == (0, said, "")
    assert ask("drain", "10.0.0.9", "--undo")[0] == 1, "it is no backend"


def test_all_that_is_drained_is_there_at_the_end_on_a_narrow_terminal(socket: Path) -> None:
    words = ["drain", "10.0.0.1:9876", "svc/web", "--no-wait"]
    _, text = on_terminal(words, 30, KBE_NAT_SOCKET=str(socket))
    assert text.splitlines()[-2:] == [
        "\r\x1b[K10.0.0.1:9876: 3 connections left after 0 s".rpartition("\r")[2],
        "default/web: 3 connections left after 0 s",
    ]


def test_a_whole_address_is_undone_as_such(ask: Ran) -> None:
    assert ask("drain", "10.0.0.1", "--no-wait")[0] == 0
    code, _, err = ask("drain", "web", "--undo")
    assert (code, "10.0.0.1:9876 is drained as all of 10.0.0.1: undo that" in err) == (2, True)


def test_ctrl_c_says_that_the_drain_stays(socket: Path) -> None:
    command = [sys.executable, "-m", "kbe_nat", "drain", "web", "--socket", str(socket)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout and process.stderr
        assert "left after" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        *_, last = process.stderr.read().splitlines()
    undo = f"kbe-nat drain default/web --undo --socket {socket}"
    assert last == f"kbe-nat: default/web stays drained; to undo it: {undo}"
    done = subprocess.run([*command[:3], *undo.split()[1:]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "default/web gets new connections again\n")
