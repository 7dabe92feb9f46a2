"""kubectl's forms of output and its flags: several kinds, metadata, labels, Go's truth values."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.test_habits import shop
from harness.verbs import Ran, on_terminal
from kbe_nat.cli import NESTED, app, decisions, playground_views, views
from kbe_nat.cli.listing import Listing
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.control.controller import Controller


@pytest.fixture(autouse=True)
def _shop(controller: Controller) -> None:
    controller.apply(shop())


@pytest.mark.parametrize("words", [("svc,ep", "web"), ("svc/web", "ep/web")], ids=" ".join)
def test_several_kinds_are_one_list(ask: Ran, words: tuple[str, ...]) -> None:
    for form in ("json", "yaml"):
        code, out, err = ask("get", *words, "-o", form)
        document: Any = json.loads(out) if form == "json" else yaml.safe_load(out)
        assert (code, err, document["kind"]) == (0, "", "List")
        kinds = [(item["kind"], item["service"]) for item in document["items"]]
        assert kinds == [("Service", "default/web"), ("Endpoint", "default/web")]
        assert all(item["apiVersion"] == document["apiVersion"] for item in document["items"])
    named = ask("get", *words, "-o", "name")
    assert named == (0, "service/default/web\nendpoints/default/web\n", "")
    template = "jsonpath={.items[*].kind}"
    assert ask("get", *words, "-o", template) == (0, "Service Endpoint", "")


def test_a_list_of_several_kinds_lacks_what_is_not_there(ask: Ran) -> None:
    code, out, err = ask("get", "svc/web", "ep/wbe", "-o", "json")
    assert (code, [item["kind"] for item in json.loads(out)["items"]]) == (1, ["Service"])
    assert err == 'Error from server (NotFound): endpoints "default/wbe" not found\n'
    assert ask("get", "svc,ep", "wbe", "-o", "json")[:2] == (1, "")
    code, out, _ = ask("get", "no,status", "-o", "json")
    kinds = [item["kind"] for item in json.loads(out)["items"]]
    assert (code, kinds) == (0, ["Node", "Status"])
    assert "-w: one kind can be watched" in ask("get", "svc,ep", "-w")[2]


def test_metadata_leads_to_the_fields_of_the_row(ask: Ran) -> None:
    names = "{range .items[*]}{.metadata.namespace}/{.metadata.name} {end}"
    for kind, first in (("svc", "default/web"), ("ep", "default/web"), ("eps", "default/web-1")):
        code, out, err = ask("get", kind, "-n", "default", "-o", f"jsonpath={names}")
        assert (code, out.split(), err) == (0, [first], "")
    assert ask("get", "svc", "web", "-o", "jsonpath={.metadata.name}")[1] == "web"
    template = "jsonpath={.items[*].metadata.labels.tier}"
    assert ask("get", "svc", "-l", "app=web", "-o", template)[1] == "front front"


@pytest.mark.parametrize("path", [".metadata.namespace", "{.metadata.namespace}", ".namespace"])
def test_rows_are_sorted_by_metadata(ask: Ran, path: str) -> None:
    code, out, err = ask("get", "svc", f"--sort-by={path}", "-o", "name")
    assert (code, err, out.split()[0]) == (0, "", "service/default/web")
    out = ask("get", "svc", "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].name}")[1]
    assert out.split() == sorted(out.split())


def test_the_nearest_field_is_suggested(ask: Ran) -> None:
    for path, said in (
        (".spec.clusterIP", "--sort-by: no row has .spec.clusterIP; did you mean .cluster_ip?"),
        (".nmae", "--sort-by: no row has .nmae; did you mean .name?"),
        (".x", "--sort-by: no row has .x; -o json shows the fields"),
    ):
        assert ask("get", "svc", "--sort-by", path) == (
            2,
            "",
            f"kbe-nat: Invalid value for {said}\n",
        )


def test_a_slice_has_namespace_and_name(ask: Ran) -> None:
    row = ask.json("get", "eps", "web-2", "-n", "shop")
    assert (row["namespace"], row["name"], row["service"]) == ("shop", "web-2", "shop/web")


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200, 230])
def test_what_is_wide_is_never_cut(ask: Ran, socket: Path, columns: int) -> None:
    for words in (["get", "svc", "-o", "wide"], ["get", "svc", "--show-labels", "-o", "wide"]):
        _, piped, _ = ask(*words)
        code, text = on_terminal(words, columns, KBE_NAT_SOCKET=str(socket))
        assert (code, text.splitlines()) == (0, piped.splitlines())


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (("--no-headers=true",), ("--no-headers",)),
        (("--no-headers=T", "-A=1"), ("--no-headers", "-A")),
        (("--watch=false", "--no-headers=false"), ()),
        (("-w=0", "--all-namespaces=False"), ()),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_a_switch_takes_gos_truth_values(
    ask: Ran, words: tuple[str, ...], plain: tuple[str, ...]
) -> None:
    assert ask("get", "svc", *words) == ask("get", "svc", *plain)
    code, out, err = ask("get", "svc", "--watch=no")
    assert (code, out, err) == (
        2,
        "",
        "kbe-nat: Invalid value for --watch: 'no' is neither true nor false\n",
    )


def test_a_name_of_nothing_may_be_no_error(ask: Ran) -> None:
    flag = "--ignore-not-found"
    for form in ("text", "json", "name"):
        assert ask("get", "svc", "wbe", flag, "-o", form) == (0, "", "")
    code, out, err = ask("get", "svc", "wbe", "web", flag, "-o", "name")
    assert (code, out, err) == (0, "service/default/web\n", "")
    assert ask("get", "svc,ep", "wbe", flag, "-o", "json")[0] == 0


@pytest.mark.parametrize(
    ("words", "behind"),
    [
        (("-n", "shop", "get", "svc"), ("get", "svc", "-n", "shop")),
        (("-nshop", "get", "svc"), ("get", "svc", "-n", "shop")),
        (
            ("--namespace=shop", "get", "svc", "-o", "name"),
            ("get", "svc", "-n", "shop", "-o", "name"),
        ),
        (("-n", "shop", "strategy", "unset", "web"), ("strategy", "unset", "shop/web")),
    ],
    ids=lambda words: " ".join(words),
)
def test_flags_may_stand_ahead_of_the_verb(
    ask: Ran, socket: Path, words: tuple[str, ...], behind: tuple[str, ...]
) -> None:
    code, out, err = ask(*behind)
    assert (code, err) == (0, "") and out
    assert ask(*words) == (code, out, err)
    assert ask("--socket", socket.parent / "none", *words)[0] == 2
    assert ask(f"--socket={socket}", *words) == (code, out, err)
    assert ask("-n", "shop", "conntrack", "-L")[0] == 2, "there -n is another flag"


def test_verbs_of_two_words_are_the_groups() -> None:
    groups = [name for name, command in app.commands.items() if isinstance(command, VerbGroup)]
    assert sorted(groups) == sorted(NESTED)


def test_endpoints_are_found_by_address(ask: Ran) -> None:
    _, everything, _ = ask("get", "ep", "web", "--no-headers")
    for name in ("10.0.0.1", "10.0.0.1:9876"):
        assert ask("get", "ep", name, "--no-headers") == (0, everything, "")
    code, out, err = ask("get", "ep", "10.0.0.9", "10.0.0.1", "shop/web:http", "-o", "name")
    assert (code, out.split()) == (1, ["endpoints/default/web", "endpoints/shop/web:http"])
    assert err == 'Error from server (NotFound): endpoints "10.0.0.9" not found\n'


def test_what_is_missing_or_wrong_leads_to_the_help(ask: Ran) -> None:
    for words, said in (
        (("get",), "KIND is one of services (svc), endpoints (ep)"),
        (("get", "svc", "--wrong"), "--wrong"),
        (("get", "widgets"), "'widgets' is none of services (svc)"),
    ):
        code, out, err = ask(*words)
        assert (code, out, said in err) == (2, "", True), err
        assert err.endswith("see kbe-nat get --help\n")
    for word in ("status", "flows", "svc"):
        assert ask(word)[::2] == (2, f"kbe-nat: {word} is a kind: kbe-nat get {word}\n")
    assert "which kbe-nat get ep -o wide lists" in ask("describe", "ep", "web")[2]


def test_a_strategy_that_was_not_set_is_not_unset(ask: Ran) -> None:
    nothing = (0, "default/web: no strategy was set: nothing to unset\n", "")
    assert ask("strategy", "unset", "web") == nothing
    assert ask("strategy", "set", "web", "rr")[0] == 0
    assert "as its annotation" in ask("strategy", "unset", "web")[1]
    assert ask("strategy", "unset", "web") == nothing
    assert ask("strategy", "unset", "wbe")[0] == 1


@pytest.mark.parametrize("flag", ["--exact", "-X", "--sort", "--nosort", "--persistent-conn"])
def test_flags_of_ipvsadm_are_answered(ask: Ran, flag: str) -> None:
    code, out, err = ask("ipvs", "-Ln", flag)
    assert (code, out, f"Invalid value for {flag}: " in err) == (2, "", True)


def test_labels_are_a_column(ask: Ran) -> None:
    head, *rows = ask("get", "svc", "--show-labels")[1].splitlines()
    assert head.endswith("  labels")
    assert {row.split()[-1] for row in rows} == {"<none>", "app=web,tier=front"}
    for words, said in (
        (("ep", "--show-labels"), "--show-labels: of a row of kind Endpoint no labels are known"),
        (("svc", "--show-labels", "-o", "json"), "--show-labels: it has no effect"),
        (("svc", "-L", "app"), "-L: --show-labels shows all labels"),
        (("svc", "--label-columns=app"), "--label-columns: --show-labels shows"),
        (("svc", "--watch-only"), "--watch-only: -w begins with what there is"),
    ):
        code, out, err = ask("get", *words)
        assert (code, out, said in err) == (2, "", True), err


def test_every_column_of_a_listing_is_one_word() -> None:
    for module in (decisions, playground_views, views):
        for listing in vars(module).values():
            if isinstance(listing, Listing):
                titles = [column.title for column in listing.columns]
                assert all(title.split() == [title] for title in titles), titles
                assert {*listing.spare} <= {*titles}
