"""Flags of all verbs: mistakes, flags without an effect, and requests to the daemon."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from harness.verbs import ROOT, SEED, VIP, Ran
from kbe_nat.cli import VERBS, app
from kbe_nat.cli.flags.node import ADDRESS_FLAG, NodeCommand
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.requests import parameters
from kbe_nat.errors import ControlError

NODES = str(ROOT / "examples/node/objects.yaml")
CAPTURE = str(ROOT / "examples/traffic.pcap")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("replay", "-f", "absent.yaml", "x.pcap"), "absent.yaml: No such file"),
        (("replay", "-f", SEED, "absent.pcap"), "absent.pcap: No such file"),
        (("replay", "-f", SEED, SEED), "neither a pcap nor a pcapng file"),
        (("replay", "-f", SEED, "x.pcap", "--strategy", "best"), "--strategy"),
        (("replay", "-f", SEED, "x.pcap", "--seed", "-1"), "--seed"),
        (("replay", "-f", SEED, "x.pcap", "--reject-with", "silence"), "--reject-with"),
        (
            ("replay", "-f", SEED, "x.pcap", "--masquerade-address", "10.0.0"),
            "--masquerade-address",
        ),
        (("replay", "-f", SEED), "CAPTURE"),
        (("replay", "x.pcap"), "Missing option -f"),
        (("explain", "-f", SEED, "--from", "10.0.2.15"), "--to"),
        (("explain", "-f", SEED, "--from", "10.0.2.15", "--to", VIP), "no port"),
        (("explain", "-f", SEED, "--from", "fd00::1", "--to", f"{VIP}:80"), "different families"),
        (
            ("explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:80", "--proto", "icmp"),
            "--proto",
        ),
        (("nonsense",), "nonsense"),
        (("demo", "--requests", "-1"), "--requests"),
        (("proxy",), "Missing option --manifests: say where"),
        (("shadow",), "Missing option -f: say where"),
        (("dump",), "Missing option -f: say where"),
        (("explain",), "Missing option --from: give --from and --to"),
        (("explain", "--to", VIP), "Missing option --from: a packet has both ends"),
        (("explain", "--from", "fd00::1", "--to", f"{VIP}:80"), "Missing option -f"),
        (("explain", "-f", SEED, "--from", "10.0.2.15", "--to", "fd00::1:80"), "[fd00::1]:80"),
        (("explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:http"), "a port is a"),
        (("proxy", "--manifests", "absent", "--dry-run"), "absent"),
        (("proxy", "--manifests", ".", "--mark-flow", "3"), "--mark-flow"),
        (("proxy", "--manifests", ".", "--service-proxy-name", "a b"), "--service-proxy-name"),
        (("proxy", "--manifests", ".", "--cpus", "first"), "--cpus"),
        (("conntrack", "-L", "-C"), "only one of"),
        (
            ("get", "services", "--socket", "/nowhere"),
            "no daemon answers here: start kbe-nat proxy, or",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    kbe: Ran, arguments: tuple[str, ...], named: str
) -> None:
    if arguments[0] == "demo" and os.geteuid() != 0:
        pytest.skip("without root the demo begins in a user namespace")
    code, out, err = kbe(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("kbe-nat: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--kubeconfig",
            "kubectl get svc,endpointslices,nodes -A -o json > DIR/all.new "
            "&& mv DIR/all.new DIR/all.json",
        ),
        (
            "--kubeconfig=/etc/admin.conf",
            "this verb does not ask the API server",
        ),
        ("--master", "this verb does not ask the API server"),
        ("--proxy-mode", "--mode"),
        ("--hostname-override", "--node"),
    ],
)
def test_flags_that_people_know_from_kube_proxy(kbe: Ran, flag: str, said: str) -> None:
    code, out, err = kbe("dump", flag, "x", "-f", "objects")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err and flag.partition("=")[0] in err


def test_help_and_version(kbe: Ran) -> None:
    for verb in ((), *((name,) for name in VERBS)):
        code, out, _ = kbe(*verb, "--help")
        assert code == 0
        assert " ".join(("Usage: kbe-nat", *verb)) in out
    overview = kbe("--help")[1].partition("Serve:\n")[2]
    verbs = [line.split()[0] for line in overview.splitlines() if line.startswith("  ")]
    assert tuple(verbs) == VERBS
    assert kbe()[1] == kbe("--help")[1]
    assert kbe("help", "get")[1] == kbe("get", "--help")[1]
    for flag in ("--version", "-V"):
        assert kbe(flag)[1].startswith("kbe-nat 0.")


def test_the_daemon_holds_no_module_that_it_does_not_use() -> None:
    program = (
        "import sys\n"
        "from kbe_nat.__main__ import main\n"
        "assert main(['proxy', '--manifests', 'absent', '--dry-run']) == 2\n"
        "print(*sys.modules)\n"
    )
    modules = subprocess.check_output([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    held = set(modules.decode().split())
    verbs = {f"kbe_nat.cli.{verb}" for verb in VERBS}
    assert held & verbs == {"kbe_nat.cli.proxy"}
    assert not held & {"rich", "asyncio", "http.server", "kbe_nat.playground", "kbe_nat.doctor"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--node-address", "192.0.2.1", "2001:db8::1"),
        ("--node-address", "192.0.2.1", "--node-address", "2001:db8::1"),
        ("--node-address=192.0.2.1", "--node-address", "2001:db8::1"),
    ],
)
def test_several_addresses_of_the_node(kbe: Ran, flags: tuple[str, ...]) -> None:
    code, told, _ = kbe("dump", "-f", SEED, *flags, "--format", "nft")
    assert code == 0
    assert "192.0.2.1" in told and "2001:db8::1" in told


DESCRIBED = ("--from", "10.0.2.15", "--to", f"{VIP}:80")


@pytest.mark.parametrize(
    ("arguments", "flag", "said"),
    [
        (
            (
                "explain",
                "-f",
                SEED,
                *DESCRIBED,
                "--cluster-cidr",
                "10.0.0.0/8",
                "--detect-local-mode",
                "NodeCIDR",
            ),
            "--cluster-cidr",
            "pods are told by NodeCIDR",
        ),
        (
            ("explain", "-f", SEED, *DESCRIBED, "--pod-bridge-interface", "br0"),
            "--pod-bridge-interface",
            "pods are told by ClusterCIDR",
        ),
        (
            ("replay", "-f", SEED, "in.pcap", "--pod-interface-name-prefix", "veth"),
            "--pod-interface-name-prefix",
            "ClusterCIDR",
        ),
        (
            ("explain", "-f", SEED, *DESCRIBED, "--mode", "nftables", "--localhost-nodeports"),
            "--localhost-nodeports",
            "in nftables mode",
        ),
        (
            ("dump", "-f", SEED, "--format", "nft", "--no-localhost-nodeports"),
            "--localhost-nodeports",
            "in nftables mode",
        ),
        (
            ("explain", "-f", SEED, "in.pcap", "--packet", "1", "--proto", "udp"),
            "--proto",
            "belongs to --from and --to",
        ),
        (
            ("explain", "-f", SEED, "in.pcap", "--packet", "1", "--iif", "eth1"),
            "--iif",
            "belongs to --from and --to",
        ),
        (("explain", "-f", SEED, *DESCRIBED, "--socket", "x"), "--socket", "without --live"),
        (("explain", "--live", *DESCRIBED, "-f", SEED), "-f", "with --live"),
        (("explain", "--live", *DESCRIBED, "--node", "n1"), "--node", "with --live"),
        (("explain", "--live", *DESCRIBED, "--lenient"), "--strict", "with --live"),
        (("dump", "--live", "--config", "x"), "--config", "with --live"),
        (("dump", "-f", SEED, "--socket", "x"), "--socket", "without --live"),
        (("dump", "-f", SEED, "--reject-with", "tcp-reset"), "--reject-with", "refuse by ICMP"),
        (
            ("dump", "-f", SEED, "--format", "nft", "--mode", "iptables"),
            "--mode",
            "nft is not of mode iptables",
        ),
        (
            ("diff", "-f", SEED, "x", "--reject-with", "tcp-reset"),
            "--reject-with",
            "refuse by ICMP",
        ),
        (("shadow", "-f", SEED, "--existing", "--duration", "5"), "--duration", "with --existing"),
        (("shadow", "-f", SEED, "--reject-with", "tcp-reset"), "--reject-with", "never appears"),
        (("drain", "10.0.0.1", "--undo", "--deadline", "5"), "--deadline", "--undo"),
        (("get", "services", "--limit", "5"), "--limit", "no effect on services"),
        (("get", "rules", "-o", "name"), "-o", "there are no names of rules"),
        (("get", "status", "-n", "a"), "-n", "no effect on status"),
        (("get", "services", "web", "-A"), "-A", "a name is of one namespace"),
        (("get", "services", "-A", "-n", "a"), "-A", "contradicts --namespace"),
        (("get", "services", "web", "-l", "a=b"), "-l", "names are selected already"),
        (("get", "pods"), "KIND", "kubectl get pods"),
        (("get", "flowz"), "KIND", "services (svc)"),
        (("get", "svc/web", "api"), "KIND", "'api' is not KIND/NAME"),
        (("get", "svc", "-o", "jsonpath={.a"), "-o", "no brace closes"),
        (("get", "svc", "-o", "table"), "-o", "'table' is none of text, wide"),
        (("get", "flows", "-o", "name"), "-o", "a flow has no name"),
        (("conntrack", "-F", "-p", "tcp"), "-p", "-F ends all connections"),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "every-packet",
                "--on-death",
                "refuse",
            ),
            "--on-death",
            "every-packet is taken here",
        ),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "every-packet",
                "--standby-slots",
                "4",
            ),
            "--standby-slots",
            "every-packet is taken here",
        ),
        (
            ("proxy", "--manifests", SEED, "--on-death", "refuse", "--standby-slots", "4"),
            "--standby-slots",
            "nothing stands by (--on-death refuse)",
        ),
        (
            ("proxy", "--manifests", SEED, "--on-death", "refuse", "--choice", "kernel"),
            "--choice",
            "the kernel chooses without a daemon too (--on-death refuse)",
        ),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "every-packet",
                "--mark-backend",
                "0xff0000",
            ),
            "--mark-backend",
            "every-packet is taken here",
        ),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "first-packet",
                "--rules",
                "nft",
            ),
            "--rules",
            "first-packet is taken here",
        ),
        (
            ("proxy", "--manifests", SEED, "--dry-run", "--driver", "netfilterqueue", "--no-gso"),
            "--gso",
            "netfilterqueue has no such thing",
        ),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, tuple) else "",
)
def test_flags_without_an_effect_are_refused(
    kbe: Ran,
    capture: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    flag: str,
    said: str,
) -> None:
    if arguments[0] == "proxy" and os.geteuid() != 0:
        pytest.skip("without root it ends before it knows which datapath it takes")
    monkeypatch.chdir(capture.parent)
    code, out, err = kbe(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert flag in err and said in err


@pytest.mark.parametrize(
    "flags",
    [
        ("--cluster-cidr", "10.244.1.0/24,10.244.2.0/24"),
        ("--nodeport-addresses", "primary,10.0.0.0/8"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [
        ("dump",),
        ("explain", *DESCRIBED),
        ("diff", "x"),
        ("replay", "in.pcap"),
        ("proxy", "--dry-run"),
    ],
)
def test_what_kube_proxy_would_refuse_no_verb_takes(
    kbe: Ran,
    capture: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
    flags: tuple[str, str],
) -> None:
    monkeypatch.chdir(capture.parent)
    Path("x").write_text("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\nCOMMIT\n")
    objects = ("--manifests" if verb[0] == "proxy" else "-f", SEED)
    code, out, err = kbe(*verb, *objects, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert flags[0] in err and (
        "dual-stack pair of CIDRs" in err or "both 'primary' and CIDRs" in err
    )


@pytest.mark.parametrize(
    "verb",
    [
        ("dump", "--live"),
        ("dump", "--live", "--format", "nft", "--family", "ipv6", "--names", "legacy"),
        ("explain", "--live", "--from", "10.0.0.1", "--to", "10.0.0.2:80"),
        ("explain", "--live", "--from", "10.0.0.1", "--to", "10.0.0.2:80", "--iif", "eth0"),
        *(("get", kind) for kind in ("services", "endpoints", "flows", "rules", "stats", "status")),
        ("describe", "service", "default/web"),
        ("strategy", "set", "default/web", "wlc"),
        ("strategy", "unset", "default/web"),
        ("drain", "10.0.0.1"),
        ("drain", "10.0.0.1", "--deadline", "5", "--no-wait"),
        ("drain", "10.0.0.1", "--undo"),
        ("handover",),
        ("conntrack", "-L"),
        ("conntrack", "-L", "-p", "tcp", "--dport", "80"),
        ("conntrack", "-E"),
        ("conntrack", "-D", "-s", "10.0.0.1"),
        ("conntrack", "-F"),
        ("top", "--iterations", "1"),
    ],
)
def test_what_verbs_ask_is_what_the_daemon_answers(
    kbe: Ran, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    def answer(request: dict[str, Any]) -> Iterator[Any]:
        parameters(request)
        asked.append(request)
        raise ControlError("understood")

    asked: list[dict[str, Any]] = []
    path = tmp_path / "s"
    with ControlServer(path, answer):
        assert kbe(*verb, "--socket", path)[1:] == ("", "kbe-nat: understood\n")
    assert asked


def test_each_verb_with_node_flags_takes_several_addresses_at_once() -> None:
    verbs = app.commands.values()
    takes_addresses = [
        verb for verb in verbs if any(ADDRESS_FLAG in flag.opts for flag in verb.params)
    ]
    assert takes_addresses
    assert [verb.name for verb in takes_addresses if not isinstance(verb, NodeCommand)] == []


def test_help_lists_where_objects_come_from(kbe: Ran) -> None:
    code, out, _ = kbe("proxy", "--help")
    assert code == 0
    objects = out.partition("\nObjects:\n")[2].partition("\n\n")[0]
    flags = [line.split()[0] for line in objects.splitlines() if line.startswith("  -")]
    assert {"-f,", "--kubeconfig", "--master"} <= set(flags)


@pytest.mark.parametrize(
    "words",
    [
        ("dump", "-f", NODES),
        ("explain", "-f", NODES, "--from", "10.0.2.15", "--to", f"{VIP}:80"),
        ("replay", "-f", NODES, CAPTURE),
    ],
    ids=lambda words: str(words[0]),
)
def test_a_node_that_the_objects_lack_is_a_mistake(kbe: Ran, words: tuple[str, ...]) -> None:
    said = "kbe-nat: Invalid value for --node: typo is none of the objects' nodes (node-1)\n"
    assert kbe(*words, "--node", "typo") == (2, "", said)
    # Without any Node among the objects there is nothing to compare the name with.
    assert kbe("dump", "-f", SEED, "--node", "typo")[0] == 0


def test_usage_says_what_may_be_left_out_or_repeated() -> None:
    usages = {
        ("get",): "[OPTIONS] KIND [NAME...]",
        ("describe",): "[OPTIONS] KIND [NAME...]",
        ("top",): "[OPTIONS] [NAME...]",
        ("conntrack",): "[OPTIONS] [NAME...]",
        ("explain",): "[OPTIONS] [CAPTURE]",
        ("replay",): "[OPTIONS] CAPTURE",
        ("strategy", "set"): "[OPTIONS] SERVICE STRATEGY",
        ("playground", "rules"): "[OPTIONS] [SERVICE]",
        ("playground", "scale"): "[OPTIONS] KIND NAME",
        ("lab", "validate"): "[OPTIONS] NAME|FILE...",
    }
    for words, usage in usages.items():
        command: click.Command = app
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        assert " ".join(command.collect_usage_pieces(click.Context(command))) == usage


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("get", "svc", "-o", "nope"), "-o"),
        (("get", "svc", "--output", "nope"), "--output"),
        (("get", "svc", "--output=nope"), "--output"),
        (("get", "svc", "-onope"), "-o"),
        (("explain", "--packet", "4"), "--packet"),
        (("explain", "-f", SEED, CAPTURE), "--packet"),
        (("explain", "-f", SEED), "--from"),
        (("explain", "-f", SEED, "--to", f"{VIP}:80"), "--from"),
    ],
    ids=lambda words: " ".join(map(str, words)) if isinstance(words, tuple) else "",
)
def test_a_message_names_the_flag_as_it_was_typed(
    kbe: Ran, words: tuple[str, ...], flag: str
) -> None:
    code, out, err = kbe(*words)
    assert (code, out) == (2, "")
    assert err.startswith(
        (f"kbe-nat: Invalid value for {flag}: ", f"kbe-nat: Missing option {flag}: ")
    )


def test_a_default_duration_is_written_as_one_is_given(kbe: Ran) -> None:
    assert "Time between two looks. Default: 1s." in " ".join(kbe("top", "--help")[1].split())
