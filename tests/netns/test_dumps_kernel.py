"""Rules in kube-proxy's form in a real kernel: it takes them, and lists them as they were written."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_cases import CASES, Case, run

from kbe_nat.kubeproxy import nft
from kbe_nat.kubeproxy.difference import differences
from kbe_nat.model import IPV4
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.policy import Listener, Plan, PortPolicy, Target
from kbe_nat.rules.execution import Commands

RANGES = (
    ("203.0.113.7/32",),
    ("203.0.113.0/25", "203.0.113.128/25"),
    ("203.0.113.0/25", "203.0.113.7/32"),
    ("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"),
    ("192.168.0.0/24", "203.0.114.7/32"),
)


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-dumps-{os.getpid()}") as made:
        yield made


def listed(node: Namespace, text: str) -> str:
    Commands(node.prefix).run(("nft", "-f", "-"), text)
    found = node.call("nft", "list", "ruleset")
    node.call("nft", "flush", "ruleset")
    return found


@pytest.mark.parametrize("case", [case for case in CASES if (case.folder / "nft.golden").exists()], ids=str)
def test_nft_lists_what_was_dumped(node: Namespace, case: Case, tmp_path: Path) -> None:
    text = run("dump", *case.flags("nftables", tmp_path), "--format", "nft")
    assert differences(text, listed(node, text)) == []


@pytest.mark.parametrize("ranges", RANGES, ids=" ".join)
def test_nft_lists_source_ranges_as_they_were_dumped(node: Namespace, ranges: tuple[str, ...]) -> None:
    listeners = tuple(Listener("load-balancer", f"203.0.114.{number}", 80) for number in (1, 2, 4))
    port = PortPolicy(
        "ns", "svc", "", "tcp", IPV4, listeners, (Target("10.0.0.1", 80),), (), source_ranges=ranges
    )
    admitting = PortPolicy(
        "ns",
        "own",
        "",
        "tcp",
        IPV4,
        listeners,
        (),
        (),
        source_ranges=ranges,
        admits_own_addresses=True,
    )
    for own in (port, admitting):
        text = nft.dump(Plan((own,), (), (), (), service_ranges=ranges), IPV4)
        assert differences(text, listed(node, text)) == []
