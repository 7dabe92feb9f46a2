"""kubectl's habits: kinds by short names, namespaces, labels, forms of output, names of nothing."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.full_engine import VIP, controller_with, verbs_of
from harness.verbs import Ran
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Node, Service, ServicePort, SlicePort, Snapshot

PORTS = (ServicePort("http", "tcp", 80, 30080), ServicePort("https", "tcp", 443))
NAMES = ["default/web", "shop/web:http", "shop/web:https", "shop/headless-not"]
BOTH = ["shop/web:http", "shop/web:https"]
LONG = "a-service-with-a-name-that-is-longer-than-a-terminal-is-wide"


def shop() -> Snapshot:
    """Three Services of two namespaces; one has labels and two ports, one no endpoints."""
    web, other = ("default", "web"), ("shop", "web")
    udp = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "udp", 9876),), (Endpoint("10.0.0.1"),)
    )
    tcp = EndpointSlice(
        "web-2",
        Family.IPV4,
        (SlicePort("http", "tcp", 8080), SlicePort("https", "tcp", 8443)),
        (Endpoint("10.0.0.2"), Endpoint("10.0.0.3", is_ready=False, is_serving=False)),
    )
    return Snapshot(
        2,
        (
            Service(*web, (VIP,), (ServicePort("", "udp", 80),)),
            Service(
                *other,
                ("172.30.0.2",),
                PORTS,
                load_balancer_ips=("203.0.113.1", "203.0.113.2"),
                labels=("app=web", "tier=front"),
            ),
            Service("shop", LONG, ("172.30.0.3",), (ServicePort("", "tcp", 80),)),
        ),
        {web: (udp,), other: (tcp,)},
        {"n1": Node("n1", ("192.0.2.1",), "za")},
    )


@pytest.fixture
def controller() -> Controller:
    controller = controller_with(3)
    controller.apply(shop())
    return controller


@pytest.fixture
def socket(tmp_path: Path, controller: Controller) -> Iterator[Path]:
    with ControlServer(tmp_path / "control.sock", verbs_of(controller)):
        yield tmp_path / "control.sock"


@pytest.fixture
def ask(kbe: Ran, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    monkeypatch.setenv("KBE_NAT_SOCKET", str(socket))
    return kbe


def names(ask: Ran, *words: str) -> list[str]:
    code, out, err = ask(*words, "-o", "jsonpath={range .items[*]}{.name}{'\\n'}{end}")
    assert code == 0, err
    return out.split()


@pytest.mark.parametrize(
    "words",
    [("svc",), ("service",), ("services",), ("SVC",), ("svc", "-A"), ("svc", "--all-namespaces")],
    ids=" ".join,
)
def test_a_kind_has_short_names(ask: Ran, words: tuple[str, ...]) -> None:
    everything = [f"shop/{LONG}" if name == "shop/headless-not" else name for name in NAMES]
    assert sorted(names(ask, "get", *words)) == sorted(everything)


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (("svc", "web"), ["default/web"]),
        (("svc/web",), ["default/web"]),
        (("svc", "web", "-n", "shop"), ["shop/web:http", "shop/web:https"]),
        (("svc", "web:http", "-n", "shop"), ["shop/web:http"]),
        (("svc", "shop/web"), ["shop/web:http", "shop/web:https"]),
        (("svc", "shop/web:https", "web"), ["default/web", "shop/web:https"]),
        (("svc/shop/web:http", "svc/web"), ["default/web", "shop/web:http"]),
        (("svc", "-n", "default"), ["default/web"]),
        (("svc", "-l", "app=web"), ["shop/web:http", "shop/web:https"]),
        (("svc", "-l", "app in (web,api),tier!=back", "-n", "shop"), BOTH),
        (("svc", "-l", "!app", "-n", "default"), ["default/web"]),
        (("svc", "-n", "none"), []),
        (("svc", "--sort-by", ".flows"), [f"shop/{LONG}", *BOTH, "default/web"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_names_namespaces_and_labels_select(
    ask: Ran, words: tuple[str, ...], listed: list[str]
) -> None:
    shown = names(ask, "get", *words)
    assert (shown if "--sort-by" in words else sorted(shown))[-1:] == listed[-1:]
    assert sorted(shown) == sorted(listed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("get", "svc", "wbe"), 'services "default/wbe"'),
        (("get", "ep", "web:http"), 'endpoints "default/web:http"'),
        (("get", "eps", "shop/none"), 'endpointslices "shop/none"'),
        (("get", "no", "n2"), 'nodes "n2"'),
        (("get", "flows", "wbe"), 'services "default/wbe"'),
        (("describe", "svc", "wbe", "-n", "shop"), 'services "shop/wbe"'),
        (("conntrack", "-L", "--service", "wbe"), 'services "default/wbe"'),
        (("conntrack", "-D", "--service", "wbe"), 'services "default/wbe"'),
        (("decisions", "wbe"), 'services "default/wbe"'),
        (("decisions", "--service", "shop/wbe"), 'services "shop/wbe"'),
        (("strategy", "set", "wbe", "rr"), 'services "default/wbe"'),
        (("top", "wbe", "--iterations", "1"), 'endpoints "default/wbe"'),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_name_of_nothing_ends_every_verb(ask: Ran, words: tuple[str, ...], message: str) -> None:
    assert ask(*words) == (1, "", f"Error from server (NotFound): {message} not found\n")


def test_a_field_that_no_row_has_sorts_nothing(ask: Ran) -> None:
    code, out, err = ask("get", "svc", "--sort-by", ".metadata.name")
    assert (code, out, "--sort-by: no row has such a field" in err) == (2, "", True)


@pytest.mark.parametrize(
    "words",
    [
        ("describe", "svc", "web"),
        ("describe", "service/web"),
        ("get", "flows", "web"),
        ("conntrack", "-L", "--service", "web"),
        ("strategy", "set", "web", "rr"),
        ("get", "ep", "web"),
        ("get", "eps", "web"),
    ],
    ids=" ".join,
)
def test_every_verb_takes_a_name_of_the_default_namespace(ask: Ran, words: tuple[str, ...]) -> None:
    code, out, err = ask(*words)
    assert code == 0 and "NotFound" not in err and ("web" in out or VIP in out)


def test_an_object_has_one_line_when_piped(ask: Ran) -> None:
    code, out, _ = ask("get", "svc", "-o", "wide")
    head, *lines = out.splitlines()
    assert (code, len(lines), head.split()[:3]) == (0, 4, ["service", "type", "cluster-ip"])
    [web] = [line for line in lines if "shop/web:http " in line]
    assert "LoadBalancer" in web and "203.0.113.1 +1 more" in web and "80:30080/TCP" in web
    assert "load-balancer 203.0.113.2:80" in web, "the rest with -o wide"
    assert len(ask("get", "svc", "--no-headers")[1].splitlines()) == 4


def test_a_terminal_cuts_the_last_column_and_no_other(socket: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "kbe_nat", "get", "svc", "-o", "wide"]
    environment = {**os.environ, "COLUMNS": "300", "KBE_NAT_SOCKET": str(socket)}
    with subprocess.Popen(command, stdout=slave, env=environment) as process:
        os.close(slave)
        text = b""
        while True:
            try:
                content = os.read(master, 65536)
            except OSError:
                break
            text += content
        assert process.wait() == 0
    os.close(master)
    lines = text.decode().splitlines()
    assert len(lines) == 5
    assert all(f"shop/{LONG}" in line for line in lines if LONG[:8] in line)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_list_is_a_document(ask: Ran, form: str) -> None:
    code, out, _ = ask("get", "svc", "shop/web", "-o", form)
    document: Any = json.loads(out) if form == "json" else yaml.safe_load(out)
    assert (code, list(document)) == (0, ["apiVersion", "kind", "items"])
    assert (document["apiVersion"], document["kind"]) == ("kbe-nat.io/v1", "ServiceList")
    [http, _] = document["items"]
    assert http["labels"] == {"app": "web", "tier": "front"}
    assert {"kind": "node-port", "address": None, "port": 30080} in http["frontends"]


def test_names_can_be_asked_for_again(ask: Ran) -> None:
    _, out, _ = ask("get", "svc", "-n", "shop", "-o", "name")
    assert f"service/shop/{LONG}" in out.split()
    assert "Service port:             shop/web:http" in ask("describe", *out.split())[1]


def test_kinds_of_the_cluster(ask: Ran) -> None:
    assert ask("get", "no", "--no-headers")[1].split() == ["n1", "za", "yes", "192.0.2.1"]
    assert "1/2" in ask("get", "eps", "shop/web")[1]
    _, out, _ = ask("get", "svc,ep", "shop/web")
    assert "cluster-ip" in out and "10.0.0.2:8443" in out


def test_nothing_is_said_where_nothing_is(ask: Ran) -> None:
    assert ask("get", "svc", "-n", "x") == (0, "", "No resources found in x namespace.\n")
    assert ask("get", "ep", "-l", "a=b") == (0, "", "No resources found.\n")
    code, out, _ = ask("get", "svc", "-n", "x", "-o", "json")
    assert (code, json.loads(out)["items"]) == (0, [])


@pytest.fixture
def watcher(socket: Path, form: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kbe_nat", "get", "svc", "-w", "-o", form, "-n", "default"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["timeout", "60", *command, "--socket", str(socket)], stdout=pipe, stderr=pipe, text=True
    ) as process:
        yield process
        process.terminate()


@pytest.mark.parametrize("form", ["text", "json", "name"])
def test_changes_are_watched(
    watcher: subprocess.Popen[str], controller: Controller, form: str
) -> None:
    assert watcher.stdout and watcher.stderr
    if form == "text":
        assert "strategy" in watcher.stdout.readline()
    assert "default/web" in watcher.stdout.readline()
    controller.apply(Snapshot(3, shop().services))
    changed = watcher.stdout.readline()
    assert "default/web" in changed
    if form == "json":
        document = json.loads(changed)
        assert (document["kind"], document["backends"]) == ("Service", 0)
    watcher.send_signal(2)
    assert watcher.wait(30) in (124, 130)
    assert watcher.stderr.read() == ""


def test_objects_have_the_same_flags_everywhere(kbe: Ran) -> None:
    for verb in ("replay", "explain", "dump", "diff", "shadow", "proxy"):
        code, out, _ = kbe(verb, "--help")
        assert (code, "--filename" in out, "--manifests" in out) == (0, True, True), verb
        assert "-f, " in out
