"""kubectl's habits: kinds by short names, namespaces, labels, forms of output, names of nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from scapy.layers.inet import IP, TCP

from harness.full_engine import VIP, controller_with
from harness.verbs import Ran, on_terminal
from kbe_nat.cli.flags.listing import ListingSettings, Output
from kbe_nat.cli.views import FLOWS
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.row_building import flow_row
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


def names(ask: Ran, *words: str) -> list[str]:
    code, out, err = ask(*words, "-o", "name")
    assert code == 0, err
    return [name.removeprefix("service/") for name in out.split()]


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
        (("strategy", "unset", "wbe"), 'services "default/wbe"'),
        (("top", "wbe", "--iterations", "1"), 'endpoints "default/wbe"'),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_name_of_nothing_ends_every_verb(ask: Ran, words: tuple[str, ...], message: str) -> None:
    assert ask(*words) == (1, "", f"Error from server (NotFound): {message} not found\n")


@pytest.mark.parametrize(
    ("words", "found", "missing"),
    [
        (("get", "svc", "web", "wbe"), "default/web", ["services", "default/wbe"]),
        (("get", "svc", "a", "web", "b"), "default/web", ["services", "default/a", "default/b"]),
        (("get", "ep", "wbe", "web"), "10.0.0.1:9876", ["endpoints", "default/wbe"]),
        (("get", "eps", "web", "wbe"), "default/web-1", ["endpointslices", "default/wbe"]),
        (("get", "no", "n1", "n2"), "192.0.2.1", ["nodes", "n2"]),
        (("get", "flows", "web", "wbe"), "10.0.0.1:9876", ["services", "default/wbe"]),
        (("get", "svc/web", "ep/wbe"), "default/web", ["endpoints", "default/wbe"]),
        (("get", "svc", "web", "wbe", "-o", "json"), "ServiceList", ["services", "default/wbe"]),
        (("get", "svc", "web", "wbe", "-o", "name"), "service/", ["services", "default/wbe"]),
        (("describe", "svc", "web", "wbe"), "Strategy:", ["services", "default/wbe"]),
        (("describe", "svc", "web", "wbe", "-o", "yaml"), "items:", ["services", "default/wbe"]),
        (("conntrack", "-L", "web", "wbe"), "dport=80", ["services", "default/wbe"]),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_is_there_is_shown_and_what_is_not_is_said(
    ask: Ran, words: tuple[str, ...], found: str, missing: list[str]
) -> None:
    code, out, err = ask(*words)
    kind, *names = missing
    assert (code, found in out) == (1, True)
    lines = [f'Error from server (NotFound): {kind} "{name}" not found' for name in names]
    assert err.splitlines() == lines


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("svc", "web"), "Service"),
        (("svc/web",), "Service"),
        (("svc", "shop/web:http"), "Service"),
        (("svc", "shop/web"), "ServiceList"),
        (("svc", "web", "shop/web:http"), "ServiceList"),
        (("svc", "-n", "default"), "ServiceList"),
        (("no", "n1"), "Node"),
        (("no",), "NodeList"),
        (("eps", "web-1"), "EndpointSlice"),
        (("eps",), "EndpointSliceList"),
        (("ep", "web"), "EndpointList"),
        (("flows", "web"), "FlowList"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_one_name_is_the_object_itself(
    ask: Ran, words: tuple[str, ...], kind: str, form: str
) -> None:
    code, out, _ = ask("get", *words, "-o", form)
    document: Any = json.loads(out) if form == "json" else yaml.safe_load(out)
    assert (code, document["kind"], "items" in document) == (0, kind, kind.endswith("List"))


def test_a_template_of_one_name_begins_at_the_object(ask: Ran) -> None:
    assert ask("get", "svc", "web", "-o", "jsonpath={.service} {.kind}")[1] == "default/web Service"
    assert ask("get", "svc", "-o", "jsonpath={.items[0].name}")[1] != ""
    code, out, err = ask("get", "svc", "-o", "jsonpath={.items[9].name}")
    assert (code, out) == (2, "")
    assert "array index out of bounds: index 9, length 4" in err


@pytest.mark.parametrize("names", [(), ("web",), ("web", "shop/web"), ("svc/web",)])
def test_a_template_for_a_list_has_one_whatever_the_names(ask: Ran, names: tuple[str, ...]) -> None:
    kind = [] if names[:1] == ("svc/web",) else ["svc"]
    for template in (
        "{.items[*].service}",
        ".items[*].service",
        "{range .items[*]}{.service} {end}",
        "{['items'][*].service}",
    ):
        code, out, err = ask("get", *kind, *names, "-o", f"jsonpath={template}")
        assert (code, err) == (0, "") and "default/web" in out.split()
        assert ("shop/web:http" in out) == (len(names) != 1)


def test_a_template_that_leads_nowhere_says_so(ask: Ran) -> None:
    said = "kbe-nat: jsonpath: nothing here has such a field; -o json shows the fields\n"
    assert ask("get", "svc", "-o", "jsonpath={.items[*].spec.x}") == (0, "", said)
    assert ask("get", "svc", "web", "-o", "jsonpath={.spec.x}") == (0, "", said)
    near = said.replace("-o json shows the fields", "did you mean .cluster_ip?")
    for template in ("{.items[*].spec.clusterIP}", "{range .items[*]}{.clusterIP}{end}"):
        assert ask("get", "svc", "-o", f"jsonpath={template}") == (0, "", near)
    nothing = ask("get", "svc", "-n", "none", "-o", "jsonpath={.items[*].name}")
    assert nothing == (0, "", ""), "an empty list has no names"


@pytest.mark.parametrize(
    "words",
    [
        ("get", "svc", "shop/web"),
        ("get", "ep", "shop/web:http"),
        ("describe", "svc/shop/web"),
        ("top", "shop/web", "--iterations", "1"),
        ("decisions", "svc/shop/web"),
        ("strategy", "set", "shop/web", "rr"),
        ("drain", "svc/shop/web", "--no-wait"),
    ],
    ids=" ".join,
)
def test_a_name_of_another_namespace_contradicts_the_flag(ask: Ran, words: tuple[str, ...]) -> None:
    code, out, err = ask(*words, "-n", "kube-system")
    assert (code, out) == (2, "")
    assert "-n: it is kube-system, and shop/web" in err
    assert ask(*words, "-n", "shop")[0] == 0


def test_slices_have_names_of_their_own(ask: Ran) -> None:
    code, out, _ = ask("get", "eps", "web-2", "-n", "shop", "--no-headers")
    assert (code, out.split()[:2]) == (0, ["shop/web-2", "shop/web"])
    assert sorted(names(ask, "get", "endpointslice/shop/web-2", "eps/web-1")) == [
        "endpointslice/default/web-1",
        "endpointslice/shop/web-2",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no", "-l", "app=web"), "labels of nodes are not followed"),
        (("svc,no", "-l", "app=web"), "labels of nodes are not followed"),
        (("no", "-n", "shop"), "nodes are in no namespace"),
        (("no", "-A"), "nodes are in no namespace"),
        (("svc", "--output-watch-events"), "it has no effect without --watch"),
        (("stats", "-w"), "it has no effect on stats"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_flag_without_effect_is_refused(ask: Ran, words: tuple[str, ...], said: str) -> None:
    code, out, err = ask("get", *words)
    assert (code, out, said in err) == (2, "", True)
    assert ask("get", "svc,no", "-n", "shop")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("top", "KIND/web", "--iterations", "1", "-d", "100ms"),
        ("decisions", "KIND/web"),
        ("decisions", "--service", "KIND/web"),
        ("conntrack", "-L", "KIND/web"),
        ("conntrack", "-C", "--service", "KIND/web"),
        ("conntrack", "-D", "KIND/web"),
        ("strategy", "set", "KIND/web", "rr"),
        ("drain", "KIND/web", "--no-wait"),
        ("explain", "--live", "--from", "10.0.2.15", "--to", "KIND/web"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["svc", "service", "services", "SVC", "endpoints"])
def test_every_verb_takes_kind_and_name(ask: Ran, words: tuple[str, ...], kind: str) -> None:
    code, out, err = ask(*(word.replace("KIND", kind) for word in words))
    assert (code, "NotFound" in err) == (0, False), err
    code, out, err = ask(*(word.replace("KIND/web", f"{kind}/wbe") for word in words))
    assert (code, out) == (1, "")
    assert '"default/wbe" not found' in err


@pytest.mark.parametrize(
    "words",
    [
        ("get", "svc", "NAME"),
        ("get", "ep/NAME"),
        ("get", "flows", "NAME"),
        ("describe", "svc", "NAME"),
        ("top", "NAME", "--iterations", "1", "-d", "100ms"),
        ("decisions", "NAME"),
        ("decisions", "--service", "NAME"),
        ("conntrack", "-L", "NAME"),
        ("conntrack", "-L", "--service", "NAME"),
        ("strategy", "set", "NAME", "rr"),
        ("drain", "NAME", "--no-wait"),
        ("explain", "--live", "--from", "10.0.2.15", "--to", "NAME"),
    ],
    ids=" ".join,
)
def test_every_verb_takes_the_number_of_a_port(ask: Ran, words: tuple[str, ...]) -> None:
    for name in ("web:80", "default/web:80", "svc/web:80"):
        if name.startswith("svc/") and words[0] in ("get", "describe"):
            continue
        code, _, err = ask(*(word.replace("NAME", name) for word in words))
        assert (code, "NotFound" in err) == (0, False), err
    code, out, err = ask(*(word.replace("NAME", "web:81") for word in words))
    assert (code, out) == (1, "")
    assert '"default/web:81" not found' in err


def test_the_number_of_a_port_means_that_port(ask: Ran) -> None:
    assert names(ask, "get", "svc", "shop/web:443") == ["shop/web:https"]
    assert names(ask, "get", "svc", "web:80", "-n", "shop") == ["shop/web:http"]
    assert ask("get", "svc", "shop/web:30080")[0] == 1, "that of a node port is no name"
    before = ask("decisions", "web")
    assert before[0] == 0 and ask("decisions", "web:80") == before


def test_events_of_a_name_of_nothing_are_none(ask: Ran) -> None:
    said = 'Error from server (NotFound): services "default/wbe" not found\n'
    assert ask("conntrack", "-E", "wbe") == (1, "", said)


def test_a_description_has_no_columns(ask: Ran) -> None:
    for form in ("wide", "name"):
        code, out, err = ask("describe", "svc", "web", "-o", form)
        assert (code, out) == (2, "")
        assert f"-o: '{form}' is none of text, yaml, json, jsonpath=TEMPLATE" in err


def test_descriptions_are_separated_by_a_blank_line_and_end_without_one(ask: Ran) -> None:
    code, out, _ = ask("describe", "svc", "-A")
    descriptions = out.split("\n\n")
    assert code == 0 and len(descriptions) > 1 and not out.endswith("\n\n")
    assert all(each.startswith("Service port:") for each in descriptions)


def test_a_short_flag_takes_a_sign_as_with_kubectl(ask: Ran) -> None:
    assert json.loads(ask("get", "svc", "-o=json", "-n=shop")[1])["kind"] == "ServiceList"
    assert ask("get", "svc", "-l=app=web", "-o=name")[1].split() == [
        f"service/{name}" for name in BOTH
    ]


def test_a_field_that_no_row_has_sorts_nothing(ask: Ran) -> None:
    code, out, err = ask("get", "svc", "--sort-by", ".metadata.uid")
    assert (code, out, "--sort-by: no row has .metadata.uid; -o json" in err) == (2, "", True)


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
    assert "LoadBalancer" in web and "203.0.113.1,+1-more" in web and "80:30080/TCP" in web
    assert "load-balancer:203.0.113.2:80" in web, "the rest with -o wide"
    assert len(ask("get", "svc", "--no-headers")[1].splitlines()) == 4


def test_a_terminal_cuts_the_last_column_and_no_other(socket: Path) -> None:
    code, text = on_terminal(["get", "svc", "-o", "wide"], 300, KBE_NAT_SOCKET=str(socket))
    lines = text.splitlines()
    assert (code, len(lines)) == (0, 5)
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
def watched() -> list[str]:
    return ["svc", "-n", "default"]


@pytest.fixture
def watcher(socket: Path, form: str, watched: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kbe_nat", "get", *watched, "-w", "-o", form]
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
    # 130, or dead of the signal: a shell shows both alike.
    assert watcher.wait(30) in (124, 130, -2)
    assert watcher.stderr.read() == ""


def gone() -> Snapshot:
    """The shop without its Service web of namespace default."""
    whole = shop()
    return Snapshot(3, whole.services[1:], whole.slices, whole.nodes)


@pytest.mark.parametrize("form", ["text", "name"])
@pytest.mark.parametrize("watched", [["svc", "-n", "default"], ["svc", "web"]], ids=" ".join)
def test_a_row_that_goes_is_shown_again(
    watcher: subprocess.Popen[str], controller: Controller, form: str
) -> None:
    assert watcher.stdout and watcher.stderr
    if form == "text":
        watcher.stdout.readline()
    row = watcher.stdout.readline()
    controller.apply(gone())
    assert watcher.stdout.readline() == row, "as kubectl does"
    controller.apply(shop())
    assert "default/web" in watcher.stdout.readline()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("watched", [["svc", "web", "--output-watch-events"]], ids=" ".join)
def test_changes_have_words(
    watcher: subprocess.Popen[str], controller: Controller, form: str
) -> None:
    assert watcher.stdout
    if form == "text":
        assert watcher.stdout.readline().split()[:2] == ["EVENT", "service"]
    events = []
    for snapshot in (Snapshot(3, shop().services), gone(), None):
        line = watcher.stdout.readline()
        if form == "json":
            document = json.loads(line)
            assert (document["kind"], document["object"]["service"]) == (
                "WatchEvent",
                "default/web",
            )
            assert document["object"]["kind"] == "Service"
            events.append(document["type"])
        else:
            assert line.split()[1] == "default/web"
            events.append(line.split()[0])
        if snapshot:
            controller.apply(snapshot)
    assert events == ["ADDED", "MODIFIED", "DELETED"]


@pytest.mark.parametrize("form", ["text", "wide", "json"])
def test_time_alone_is_no_change(form: str) -> None:
    """A connection that only grows older is not shown again."""
    settings = ListingSettings(Output(form), is_watched=True)
    columns = FLOWS.shown_columns(settings.output)
    row = flow_row(next(controller_with(1).engine.flows()))
    older = replace(row, timeout=row.timeout - 1, age=row.age + 1)
    seen, later = (FLOWS.seen(each, columns, settings) for each in (row, older))
    assert seen.facts == later.facts
    assert seen.facts != FLOWS.seen(replace(row, service="x"), columns, settings).facts


def test_objects_have_the_same_flags_everywhere(kbe: Ran) -> None:
    for verb in ("replay", "explain", "dump", "diff", "shadow", "proxy"):
        code, out, _ = kbe(verb, "--help")
        assert (code, "--filename" in out, "--manifests" in out) == (0, True, True), verb
        assert "-f, " in out


def test_the_status_has_a_row_for_each_path_of_files(ask: Ran) -> None:
    for form in ((), ("-o", "wide")):
        code, out, _ = ask("get", "status", *form)
        lines = [line.split() for line in out.splitlines()]
        place = lines.index(["path", "files", "objects", "refused", "unread", "unchanged-for"])
        assert (code, lines[place - 1], lines[place + 1][:5]) == (
            0,
            ["Files"],
            ["objects", "2", "3", "1", "0"],
        )
        assert lines[place + 1][-1].endswith("s"), "a duration"
        assert "objects/\\udcff.yaml: it is a FIFO" in out, "a name that is no UTF-8"
        assert ["running-for", "0s"] in lines
        assert ["rules-up-to-date", "yes"] in lines and ["drains", "none"] in lines


@pytest.mark.parametrize("kind", ["status", "stats", "rules"])
def test_what_is_no_list_has_no_names(ask: Ran, kind: str) -> None:
    for words, flag in ((("web",), "NAME"), (("-o", "name"), "-o")):
        said = f"kbe-nat: Invalid value for {flag}: there are no names of {kind}\n"
        assert ask("get", kind, *words) == (2, "", said)


def test_connections_that_are_over_are_not_active(ask: Ran, controller: Controller) -> None:
    """`drain` waits for the same connections that `get ep`, `describe` and `top` count."""
    controller.apply(shop())
    engine, client, vip = controller.engine, ("10.0.2.15", 40000), ("172.30.0.2", 80)
    reply = client
    for flags, is_reply, sequence, acknowledged in (
        ("S", False, 0, 0),
        ("SA", True, 100, 1),
        ("A", False, 1, 101),
        ("R", False, 1, 0),
    ):
        source, destination = (reply, client) if is_reply else (client, vip)
        tcp = TCP(sport=source[1], dport=destination[1], flags=flags)
        tcp.seq, tcp.ack = sequence, acknowledged
        packet = bytearray(bytes(IP(src=source[0], dst=destination[0]) / tcp))
        engine.process(packet, time.monotonic_ns())
        reply = next(iter(engine.flows(source=client[0]))).reply_source
        active = ask.json("get", "ep", "shop/web:http")["items"][0]["active"]
        told = ask("drain", "10.0.0.2:8080", "--no-wait", "-o", "json")[1]
        assert json.loads(told)["left"] == active == int(flags != "R")
        assert ask("drain", "10.0.0.2:8080", "--undo")[0] == 0
        assert ask.json("get", "svc", "shop/web:http")["active"] == active
    [row] = ask.json("get", "ep", "shop/web:http")["items"]
    assert (row["active"], row["over"], row["flows"], row["inactive"]) == (0, 1, 1, 0)
