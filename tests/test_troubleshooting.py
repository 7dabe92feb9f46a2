"""The tables of docs/troubleshooting.md say of each cause what the engine does."""

import re
from pathlib import Path

import pytest

from kbe_nat import Backend, Engine, Frontend, NodeView, ServicePort
from kbe_nat.packets import opening

PAGE = (Path(__file__).parents[1] / "docs/troubleshooting.md").read_text()
CLIENT, ADDRESS = ("192.0.2.9", 5000), "172.30.0.1"
BACKENDS = [Backend("10.0.0.1", 80)]


def causes(title: str) -> set[str]:
    """The causes of the table in a section."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("cause", "service", "port"),
    [
        ("no-endpoints", ServicePort("a/a", [Frontend(ADDRESS, 80)], []), 80),
        (
            "no-local-endpoints",
            ServicePort("a/a", [Frontend(ADDRESS, 80)], BACKENDS, is_internal_local=True),
            80,
        ),
        (
            "source-range",
            ServicePort(
                "a/a",
                [Frontend(ADDRESS, 80, "load-balancer")],
                BACKENDS,
                source_ranges=["10.0.0.0/8"],
            ),
            80,
        ),
        ("unknown-port", ServicePort("a/a", [Frontend(ADDRESS, 80)], BACKENDS), 81),
        ("unallocated", ServicePort("a/a", [Frontend(ADDRESS, 80)], BACKENDS), 0),
    ],
)
def test_a_refusal_answers_and_a_drop_hangs(cause: str, service: ServicePort, port: int) -> None:
    engine = Engine(seed=1)
    # As kube-proxy's nftables mode has it.
    engine.replace_services(
        [service], NodeView(mode="nftables", unknown_port="reject", unallocated=["172.30.0.0/16"])
    )
    address = ADDRESS if port else "172.30.0.2"
    verdict = engine.process(opening("tcp", CLIENT, (address, port or 80)), now=0)
    assert verdict.cause == cause
    title = {"reject": "Connection refused", "drop": "A connection hangs"}[verdict.action]
    assert cause in causes(title)
    assert cause not in causes("Connection refused") & causes("A connection hangs")
