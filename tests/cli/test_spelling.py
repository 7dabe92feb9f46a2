"""Mistyped words of a command line: each ends the verb with 2, and is answered with the word that
was meant.
"""

import pytest

from harness.verbs import Ran
from kbe_nat.cli import VERBS
from kbe_nat.spelling import hint, nearest, none_of


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        # Verbs, subverbs, and kinds in a verb's place.
        ("prxy", "proxy"),
        ("help decsions", "decisions"),
        ("-n shop descrbe svc", "describe"),
        ("svcs", "kbe-nat get svc"),
        ("Endpoint-slices", "kbe-nat get endpointslices"),
        ("strategy st web rr", "set"),
        ("lab rnu", "run"),
        ("playground aply -f x", "apply"),
        # Flags: a verb's own, those of kube-proxy, and those of a group.
        ("get svc --outptu json", "--output"),
        ("explain --form 10.0.0.1 --to 10.0.0.2:80", "--from"),
        ("conntrack --soruce 10.0.0.1", "--src"),
        ("ipvs --stat", "--stats"),
        ("proxy --cleanpu", "--cleanup"),
        ("proxy --proxymode iptables", "--proxy-mode"),
        ("--verion", "--version"),
        # Kinds.
        ("get scv", "svc"),
        ("get ep,servces", "services"),
        ("get nod/a", "node"),
        ("describe servcie web", "service"),
        ("playground get pdos", "pods"),
        # Words that are values.
        ("get svc -o jsno", "json"),
        ("top -o jsn", "json"),
        ("strategy set web wcl", "wlc"),
        ("replay -f x y --strategy Rendevous", "rendezvous"),
        ("decisions --verdict rejct", "reject"),
        ("conntrack -E -e DESTORY", "DESTROY"),
        ("conntrack -u ASURED", "ASSURED"),
        ("conntrack --state ESTABLISH", "ESTABLISHED"),
        ("conntrack -p tpc", "tcp"),
        ("conntrack -o extendd", "extended"),
        ("proxy --datapath first_packet", "first-packet"),
        ("completion bsh", "bash"),
        ("dump --format nf", "nft"),
        ("lab run fialure", "failure"),
    ],
)
def test_the_word_that_is_meant_is_named(kbe: Ran, line: str, meant: str) -> None:
    code, out, err = kbe(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("kbe-nat: ") and err.count("\n") == 1
    assert err.endswith(f"; did you mean {meant}?\n"), err


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("frobnicate", "; see kbe-nat --help"),
        ("lab frobnicate", "; see kbe-nat lab --help"),
        ("get widgets", "; see kbe-nat get --help"),
        ("version --xyz", "; see kbe-nat version --help"),
        ("drain", "; see kbe-nat drain --help"),
    ],
)
def test_where_no_word_is_near_the_help_is_named(kbe: Ran, line: str, way: str) -> None:
    code, _, err = kbe(*line.split())
    assert code == 2
    assert err.endswith(f"{way}\n") and "did you mean" not in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("conntrack -L --dport 99999", "Invalid value for --dport / --orig-port-dst: 99999"),
        ("decisions --since 5x", "Invalid value for --since: '5x'"),
        ("get svc -o 5x", "Invalid value for -o: '5x'"),
        ("lab run even", "Missing option --directory / -d; see"),
        ("strategy set web", "Missing argument STRATEGY. "),
        ("drain", "Missing argument BACKEND; see"),
    ],
)
def test_flags_are_named_without_quotes(kbe: Ran, line: str, said: str) -> None:
    code, _, err = kbe(*line.split())
    assert (code, err.startswith(f"kbe-nat: {said}")) == (2, True), err


def test_every_verb_is_found_behind_two_letters_in_the_wrong_order() -> None:
    for verb in VERBS:
        slip = verb[:-2] + verb[-1] + verb[-2]
        assert nearest(slip, VERBS) == verb, slip


def test_near_words_are_told_whatever_their_case() -> None:
    assert nearest("MAXFLOWS", ["maxFlows", "minFlows"]) == "maxFlows"
    assert nearest("max", ["min", "maxPerCore"]) == "maxPerCore", "it begins so"
    assert nearest("wholly-other", ["min", "max"]) is None
    assert nearest("", ["min"]) is None
    assert nearest(5, ["min"]) is None, "values of YAML need be no texts"
    assert hint("wholly-other", ["min"]) == ""
    assert none_of("mni", ["min", "max"]) == "'mni' is none of min, max; did you mean min?"
