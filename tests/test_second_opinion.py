"""The walkers through rules against kube-proxy: its own rules for the conformance cases say what it
decides. This holds the walkers, by which `test_clusters.py` holds us.
"""

from collections.abc import Mapping

import pytest

from harness import nft_walker
from harness.conformance_cases import CASES, Case
from harness.rule_walker import Rules, Walker
from kbe_nat.family import Family, family_of
from kbe_nat.policy.options import LOOPBACK, LOOPBACK6, Mode, Options
from kbe_nat.policy.planner import plan
from kbe_nat.sources.address import split_address
from kbe_nat.sources.manifests.manifests import read_manifests

GOLDENS = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kube_proxys_own_rules_say_what_the_case_expects(case: Case, mode: Mode) -> None:
    local = frozenset(
        plan(read_manifests([case.objects]).snapshot, Options(case.about["node"])).addresses
    )
    local |= frozenset(case.about.get("localAddresses", ()))
    rules = goldens(case, mode, local)
    if not rules:
        pytest.skip("the case has no rules of this mode")
    wanted = case.expected(mode)
    for flow in case.about["flows"]:
        address, port = split_address(flow["to"])
        is_own = flow["from"] in (*local, LOOPBACK, LOOPBACK6)
        packet = Walker(
            flow["from"],
            address,
            port or 0,
            flow["proto"],
            None if is_own else flow.get("iif", "eth0"),
        )
        if family_of(address) in rules:
            assert rules[family_of(address)].outcome(packet) == wanted[flow["name"]], flow["name"]


def goldens(
    case: Case, mode: Mode, local: frozenset[str]
) -> Mapping[int, Rules | nft_walker.Tables]:
    """kube-proxy's rules, by the families for which the case has them."""
    numbers = [
        number for number, name in GOLDENS.items() if (case.folder / f"{name}.golden").exists()
    ]
    golden = case.folder / "nft.golden"
    if mode is Mode.IPTABLES:
        return {
            number: Rules.read((case.folder / f"{GOLDENS[number]}.golden").read_text(), local)
            for number in numbers
        }
    if not golden.exists():
        return {}
    names = {Family.IPV4: "ip", Family.IPV6: "ip6"}
    return {
        number: nft_walker.Tables.read(golden.read_text(), local, names[number])
        for number in numbers
    }
