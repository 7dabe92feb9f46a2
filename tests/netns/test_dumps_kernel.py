"""Rules in kube-proxy's form in a real kernel: it takes them, and lists them as written."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.clusters import cluster
from harness.conformance_cases import CASES, Case, run
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save, nft
from kbe_nat.kubeproxy.diff import differences
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.policy.planner import plan
from kbe_nat.rules.commands import Commands
from kbe_nat.sources.manifests.manifests import read_manifests

RANGES = (
    ("203.0.113.7/32",),
    ("203.0.113.0/25", "203.0.113.128/25"),
    ("203.0.113.0/25", "203.0.113.7/32"),
    ("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"),
    ("192.168.0.0/24", "203.0.114.7/32"),
)
SEEDS = range(12)
COUNTERS = re.compile(r"-m nfacct --nfacct-name  \S+ ")
"""They must be there before a rule can name them, and not every kernel has any."""


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-dumps-{os.getpid()}") as made:
        yield made


def listed(node: Namespace, text: str) -> str:
    Commands(node.prefix).run(("nft", "-f", "-"), text)
    found = node.call("nft", "list", "ruleset")
    node.call("nft", "flush", "ruleset")
    return found


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case.folder / "nft.golden").exists()], ids=str
)
def test_nft_lists_what_was_dumped(node: Namespace, case: Case, tmp_path: Path) -> None:
    text = run("dump", *case.flags("nftables", tmp_path), "--format", "nft")
    assert differences(text, listed(node, text)) == []


@pytest.mark.parametrize("ranges", RANGES, ids=" ".join)
def test_nft_lists_source_ranges_as_they_were_dumped(
    node: Namespace, ranges: tuple[str, ...]
) -> None:
    frontends = tuple(Frontend("load-balancer", f"203.0.114.{number}", 80) for number in (1, 2, 4))
    port = PlannedPort(
        "ns",
        "svc",
        "",
        "tcp",
        Family.IPV4,
        frontends,
        (Backend("10.0.0.1", 80),),
        (),
        source_ranges=ranges,
    )
    admitting = PlannedPort(
        "ns",
        "own",
        "",
        "tcp",
        Family.IPV4,
        frontends,
        (),
        (),
        source_ranges=ranges,
        allows_load_balancer_source=True,
    )
    for own in (port, admitting):
        text = nft.dump(Plan((own,), service_ranges=ranges), Family.IPV4)
        assert differences(text, listed(node, text)) == []


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_lists_the_rules_of_random_clusters_as_they_were_dumped(
    node: Namespace, seed: int, mode: Mode, tmp_path: Path
) -> None:
    own = cluster(seed)
    snapshot = read_manifests([own.write(tmp_path)]).snapshot
    made = plan(snapshot, replace(own.options, mode=mode))
    for family in own.families:
        if mode is Mode.NFTABLES:
            text = nft.dump(made, family)
            found = listed(node, text)
        else:
            text = COUNTERS.sub("", iptables_save.dump(made, snapshot, family))
            name = "ip6tables" if family == Family.IPV6 else "iptables"
            Commands(node.prefix).run((f"{name}-restore",), text)
            found = node.call(f"{name}-save")
            node.call("nft", "flush", "ruleset")
        assert differences(text, found) == []
