"""conntrack's habits, and ipvsadm's listing."""

import json
import re
import time
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from scapy.layers.inet import IP, TCP

from harness.full_engine import VIP
from harness.verbs import Ran
from kbe_nat import __version__
from kbe_nat.cli.flow_filter import FlowFilter, parse_nat, with_any
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.rows import FlowRow
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ("", 3),
        ("-s 10.0.0.0/8", 3),
        ("-s 10.1.0.1", 3),
        ("--orig-src 10.2.0.0/16", 0),
        (f"-d {VIP}/32 --orig-port-dst 80", 3),
        ("-r 10.0.0.0/24 --reply-port-src 9876", 3),
        ("-q 10.1.0.0/24", 3),
        ("--sport 1025", 1),
        ("--reply-port-dst 1024", 1),
        ("-f ipv4", 3),
        ("-f ipv6", 0),
        ("-p 17", 3),
        ("-p UDP", 3),
        ("-p tcp", 0),
        ("--state established", 0),
        ("-u UNREPLIED", 3),
        ("-u ASSURED,SEEN_REPLY", 0),
        ("-n", 0),
        ("--src-nat 10.0.0.0/8", 0),
        ("-g", 3),
        ("-g -p udp", 3),
        ("-g 10.0.0.1", 3),
        ("--dst-nat 10.9.0.0/16", 0),
        ("-j", 3),
        ("-j 10.0.0.0/24", 3),
        ("--any-nat 10.1.0.1", 0),
        ("svc/web -j", 3),
        # The kernel does not track them.
        ("-m 0", 0),
        ("--service web", 3),
    ],
)
def test_flags_filter(ask: Ran, flags: str, count: int) -> None:
    code, out, err = ask("conntrack", "-L", *flags.split())
    assert (code, len(out.splitlines())) == (0, count)
    assert err == f"kbe-nat conntrack: {count} flow entries have been shown.\n"
    assert ask("conntrack", "-C", *flags.split())[:2] == (0, f"{count}\n")


def test_a_connection_is_got(ask: Ran) -> None:
    ends = ("-p", "udp", "-s", "10.1.0.1", "-d", VIP, "--sport", "1024", "--dport", "80")
    code, out, err = ask("conntrack", "-G", *ends)
    assert (code, "sport=1024 dport=80" in out, "1 flow entries" in err) == (0, True, True)
    code, out, err = ask("conntrack", "-G", *ends[:-1], "81")
    assert (code, out, "such conntrack doesn't exist" in err) == (1, "", True)


def test_connections_are_deleted_by_ranges(ask: Ran) -> None:
    code, out, err = ask("conntrack", "-D", "-s", "10.2.0.0/16")
    assert (code, out) == (1, "")
    assert err == "kbe-nat conntrack: 0 flow entries have been deleted.\n"
    code, out, err = ask("conntrack", "-D", "-s", "10.0.0.0/8")
    assert (code, len(out.splitlines()), "3 flow entries have been deleted" in err) == (0, 3, True)
    assert ask("conntrack", "-C")[1] == "0\n"


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ("--sport 1025", 2),
        ("--orig-port-src 1024", 2),
        ("--orig-port-dst 80", 0),
        ("--dport 81", 3),
        ("--reply-port-src 9876", 0),
        ("--reply-port-dst 1026", 2),
        ("-u UNREPLIED", 0),
        ("-u ASSURED", 3),
        ("-n", 3),
        ("-f ipv4 -p udp --sport 1025", 2),
        ("-f ipv6", 3),
        ("--service web", 0),
        ("svc/web --sport 1025", 2),
    ],
)
def test_every_flag_that_filters_deletes(ask: Ran, flags: str, left: int) -> None:
    code, out, err = ask("conntrack", "-D", *flags.split())
    assert (code, len(out.splitlines())) == (int(left == 3), 3 - left)
    assert err == f"kbe-nat conntrack: {3 - left} flow entries have been deleted.\n"
    assert ask("conntrack", "-C")[1] == f"{left}\n"


def test_forms_of_a_line(ask: Ran) -> None:
    _, out, _ = ask("conntrack", "-L", "-o", "extended,id")
    assert all(re.match(r"ipv4 +2 udp +17 .* id=\d+$", line) for line in out.splitlines())
    assert ask("conntrack", "-L", "-o", "id")[1].startswith("udp")
    assert ask("conntrack", "-L", "-o", "id")[1].split()[-1] == out.split()[-1]
    assert len(json.loads(ask("conntrack", "-L", "-o", "json")[1])["items"]) == 3


def test_counters(ask: Ran) -> None:
    code, out, _ = ask("conntrack", "-S")
    assert (code, out.startswith("entries=3 assured=0 ")) == (0, True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-L --state FOO", "'FOO' is none of NONE, SYN_SENT"),
        ("-L -s 10.0.0.0/33", "is no address, and no range"),
        ("-L -u FOO", "'FOO' is none of ASSURED"),
        ("-L -p foo", "'foo' is none of"),
        ("-L -f inet", "'inet' is none of ipv4, ipv6"),
        ("-E -e FOO", "'FOO' is none of ALL, NEW"),
        ("-L -e NEW", "no effect without -E"),
        ("-L -o xml", "'xml' is none of text, extended"),
        ("-D", "-F ends all of them"),
        ("-G -p udp", "say -p, -s and -d"),
        ("-L -S", "only one of"),
        ("-L -m foo", "'foo' is no mark of 32 bits"),
        ("-L -m 0x100000000", "is no mark of 32 bits"),
        ("-L -m 1/", "is no mark of 32 bits"),
    ],
)
def test_what_is_typed_wrong_is_said(ask: Ran, flags: str, said: str) -> None:
    code, out, err = ask("conntrack", *flags.split())
    assert (code, out, said in err) == (2, "", True), err


def test_ipvs_lists_servers(ask: Ran) -> None:
    code, out, _ = ask("ipvs", "-Ln")
    head, _, _, server, backend = out.splitlines()
    assert (code, head.startswith("IP Virtual Server version")) == (0, True)
    assert server == f"UDP  {VIP}:80 random"
    assert backend.split() == ["->", "10.0.0.1:9876", "Masq", "1", "0", "3"], "UDP is inactive"


def test_ipvs_tells_connections_that_are_closing(ask: Ran, controller: Controller) -> None:
    """As IPVS counts: from the first FIN on a connection is inactive."""
    key = ("default", "web")
    part = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "tcp", 8080),), (Endpoint("10.0.0.1"),)
    )
    service = Service(*key, (VIP,), (ServicePort("", "tcp", 80),))
    controller.apply(Snapshot(2, (service,), {key: (part,)}))
    there, back = IP(src="10.1.0.1", dst=VIP), IP(src="10.0.0.1", dst="10.1.0.1")
    for packet in (
        there / TCP(sport=1023, dport=80, flags="S", seq=1),
        there / TCP(sport=1024, dport=80, flags="S", seq=1),
        back / TCP(sport=8080, dport=1024, flags="SA", seq=1, ack=2),
        there / TCP(sport=1024, dport=80, flags="A", seq=2, ack=2),
        there / TCP(sport=1024, dport=80, flags="FA", seq=2, ack=2),
    ):
        controller.engine.process(bytes(packet), time.monotonic_ns())
    _, out, _ = ask("ipvs", "-Ln")
    [line] = [line for line in out.splitlines() if "10.0.0.1:8080" in line]
    assert line.split()[-2:] == ["1", "1"]
    rows = json.loads(ask("get", "ep", "-o", "json")[1])["items"]
    [row] = [row for row in rows if row["backend"] == "10.0.0.1:8080"]
    assert (row["active"], row["inactive"]) == (2, 1)


@pytest.mark.parametrize(("flag", "numbers"), [("--stats", "3 3 0 99 0"), ("--rate", "0 0 0 0 0")])
def test_ipvs_counts(ask: Ran, flag: str, numbers: str) -> None:
    code, out, _ = ask("ipvs", "-L", "-n", flag)
    server, backend = out.splitlines()[-2:]
    assert (code, server.split()[:2], backend.split()[:2]) == (
        0,
        ["UDP", f"{VIP}:80"],
        ["->", "10.0.0.1:9876"],
    )
    assert server.split()[2:] == backend.split()[2:] == numbers.split()


@pytest.mark.parametrize("flags", ["-Ln", "-Ln --stats", "-Ln --rate"])
def test_ipvs_counts_a_service_port_once(ask: Ran, controller: Controller, flags: str) -> None:
    """So that a sum over the list is the number of connections."""
    key = ("default", "web")
    part = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "udp", 9876),), (Endpoint("10.0.0.1"),)
    )
    service = Service(
        *key, (VIP,), (ServicePort("", "udp", 80),), external_ips=("203.0.113.1", "203.0.113.2")
    )
    controller.apply(Snapshot(2, (service,), {key: (part,)}))
    code, out, err = ask("ipvs", *flags.split())
    backends = [line.split() for line in out.splitlines() if "10.0.0.1:9876" in line]
    assert (code, len(backends), "counted as a whole" in err) == (0, 3, True)
    assert "-" not in backends[0][2:]
    assert all(line[-2:] == ["-", "-"] for line in backends[1:])
    _, out, err = ask("ipvs", *flags.split(), "-u", "203.0.113.2:80")
    [line] = [line for line in out.splitlines() if "10.0.0.1:9876" in line]
    assert line.split() == backends[0], "where it is alone, it has them"
    assert "counted as a whole" in err


def test_a_masqueraded_connection_is_found_by_either_address(ask: Ran) -> None:
    row = next(iter(ask_rows_of(ask)))
    row = replace(row, masquerade=True, reply_destination="10.0.2.15:5555")
    for flags, is_found in (
        ("-n", True),
        ("-n 10.0.2.15", True),
        ("-n 10.0.0.1", False),
        ("-g 10.0.0.1", True),
        ("-g 10.0.2.15", False),
        ("-j 10.0.2.15", True),
        ("-j 10.0.0.1", True),
        ("-j 10.7.0.0/16", False),
    ):
        words = with_any(flags.split())
        settings = {"-n": "source_nat", "-g": "destination_nat", "-j": "any_nat"}
        fields: dict[str, Any] = {settings[words[0]]: parse_nat(words[1])}
        wanted = FlowFilter(**fields)
        assert wanted.matches(row) is is_found, flags


def ask_rows_of(ask: Ran) -> list[FlowRow]:
    items = ask.json("get", "flows")["items"]
    return [msgspec.convert(item, FlowRow) for item in items]


@pytest.mark.parametrize(
    ("words", "flag", "said"),
    [
        ("conntrack -U", "-U", "marks and timeouts are the kernel's"),
        ("conntrack --update -p tcp", "--update", "marks and timeouts"),
        ("conntrack -I -p tcp", "-I", "connections begin by packets"),
        ("conntrack -L -w 7", "-w", "in the default zone alone"),
        ("conntrack -L -o timestamp", "-o", "ktimestamp shows when"),
        ("conntrack -L -E", "-E", "only one of"),
        ("conntrack --list --event", "--event", "only one of"),
        ("ipvs -Z", "-Z", "counters only grow"),
        ("ipvs -LnZ", "-Z", "counters only grow"),
        ("ipvs -A -t 10.0.0.1:80", "-A", "kubectl changes them"),
        ("ipvs -C", "-C", "conntrack -F ends all"),
        ("ipvs --stats -c --rate", "--rate", "only one of"),
        ("ipvs -L -t 10.0.0.1", "-t", "'10.0.0.1' has no port"),
        ("ipvs -L -t 10.0.0.1:80 -u 10.0.0.1:53", "-u", "one virtual server"),
    ],
)
def test_what_there_is_not_is_answered_by_a_sentence(
    ask: Ran, words: str, flag: str, said: str
) -> None:
    code, out, err = ask(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"kbe-nat: Invalid value for {flag}: ") and said in err


def test_the_beginning_of_a_connection_is_shown(ask: Ran) -> None:
    code, out, _ = ask("conntrack", "-L", "-o", "ktimestamp,id")
    assert (code, len(out.splitlines())) == (0, 3)
    for line in out.splitlines():
        (stamp,) = re.findall(r" \[start=([^]]+)\] id=", line)
        assert abs(time.mktime(time.strptime(stamp)) - time.time()) < 60


def test_ipvs_lists_one_virtual_server(ask: Ran) -> None:
    one = ask("ipvs", "-Ln", "-u", f"{VIP}:80")
    assert one == ask("ipvs", "-Ln", "--udp-service", f"{VIP}:80")
    assert one[0] == 0 and one[1].count("UDP ") == 1
    for form in (["--stats"], ["-c"]):
        assert ask("ipvs", "-Ln", "-u", f"{VIP}:80", *form) == ask("ipvs", "-Ln", *form)
    for flags in (["-t", f"{VIP}:80"], ["-u", f"{VIP}:81"], ["-u", "[fd00::1]:80"]):
        code, out, err = ask("ipvs", "-Ln", *flags)
        assert (code, out) == (1, "") and f'services "{flags[1]}" not found' in err


def test_ipvs_lists_connections(ask: Ran) -> None:
    code, out, _ = ask("ipvs", "-Lnc")
    assert (code, len(out.splitlines())) == (0, 5)
    assert f"{VIP}:80" in out and "10.0.0.1:9876" in out
    assert ask("ipvs", "--stats", "--rate")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-L", "-o", "save"), "save: connections begin by packets"),
        (("-L", "--dump"), "no daemon answers"),
        (("-L", "expect"), "expectations are not listed"),
        (("-L", "dying"), "-E -e DESTROY"),
        (("-L", "-u", "foo"), "-u: 'foo' is none of"),
        (("-E", "-e", "foo"), "-e: 'foo' is none of"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_habits_of_conntrack_are_answered(kbe: Ran, words: tuple[str, ...], said: str) -> None:
    code, out, err = kbe("conntrack", *words)
    assert (code, out, said in err) == (2, "", True), err


def test_conntrack_says_its_version(kbe: Ran) -> None:
    for flag in ("-V", "--version"):
        assert kbe("conntrack", flag) == (0, f"kbe-nat {__version__}\n", "")
