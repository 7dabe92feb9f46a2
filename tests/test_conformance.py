"""Decisions and rules of kube-proxy 1.36 for the cases in `conformance/cases`, in both of its
modes.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from harness.conformance_cases import CASES, Case, run
from kbe_nat.kubeproxy.normalise import normalise, option
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import plan
from kbe_nat.sources.manifests.manifests import read_manifests

GOLDENS = [
    (case, form, family, name)
    for case in CASES
    for form, family, name in (
        ("iptables-save", "ipv4", "iptables-save"),
        ("iptables-save", "ipv6", "ip6tables-save"),
        ("nft", None, "nft"),
    )
    if (case.folder / f"{name}.golden").exists()
]
WITH_HEALTH = [case for case in CASES if case.about.get("healthChecks")]
LEGACY = [case for case in CASES if (case.folder / "legacy.golden").exists()]


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_flows(case: Case, mode: str, tmp_path: Path) -> None:
    assert case.answers(mode, tmp_path) == case.expected(mode)


@pytest.mark.parametrize(("case", "form", "family", "name"), GOLDENS, ids=str)
def test_rules(case: Case, form: str, family: str | None, name: str, tmp_path: Path) -> None:
    mode = "nftables" if form == "nft" else "iptables"
    wanted = ("--family", family) if family else ()
    text = run("dump", *case.flags(mode, tmp_path), "--format", form, *wanted)
    assert normalise(text) == (case.folder / f"{name}.golden").read_text().splitlines()


@pytest.mark.parametrize("case", LEGACY, ids=str)
def test_rules_of_long_ago(case: Case, tmp_path: Path) -> None:
    text = run("dump", *case.flags("iptables", tmp_path), "--names", "legacy")
    assert text == (case.folder / "legacy.golden").read_text()


@pytest.mark.parametrize("case", WITH_HEALTH, ids=str)
def test_health_checks(case: Case) -> None:
    made = plan(read_manifests([case.objects]).snapshot, Options(node=case.about["node"]))
    own = {(f"{one.namespace}/{one.service}", one.port): one.local_endpoints for one in made.health}
    for check in case.about["healthChecks"]:
        count = own.get((check["service"], check["port"]))
        assert count == (None if check["status"] is None else check["localEndpoints"])
        assert check["status"] == (None if count is None else 200 if count else 503)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_chains_of_an_explanation_lead_to_its_endpoint(case: Case, tmp_path: Path) -> None:
    """In kube-proxy's own rules, one after the other."""
    rules = set()
    for name in ("iptables-save", "ip6tables-save"):
        golden = case.folder / f"{name}.golden"
        if golden.exists():
            for line in golden.read_text().splitlines():
                if line.startswith("-A "):
                    rules.add((line.split()[1], option(line, "-j")))
    for flow in case.explained("iptables", tmp_path):
        if flow["verdict"] == "translate":
            assert flow["chains"][0] == "KUBE-SERVICES"
            assert flow["chains"][-1].startswith("KUBE-SEP-")
            assert set(pairwise(flow["chains"])) <= rules, flow["name"]


def test_an_explanation_says_who_may_not_serve(tmp_path: Path) -> None:
    own = {str(case): case for case in CASES}
    terminating = own["terminating-etp-local"].explained("iptables", tmp_path)
    reasons = {row["reason"] for flow in terminating for row in flow["excluded"]}
    assert {"it terminates, and others are ready", "it terminates"} <= reasons
    hinted = own["topology-zone-hints"].explained("iptables", tmp_path)
    reasons = {row["reason"] for flow in hinted for row in flow["excluded"]}
    assert any(reason.startswith("it is hinted for zones zone-") for reason in reasons), reasons
