"""`Snat`: which source port a masqueraded flow gets, and what is said of parameters that do not
fit.
"""

from itertools import pairwise
from typing import Any

import pytest

from harness.full_engine import controller_with
from kbe_nat import ArgumentError, Snat
from kbe_nat.policy.options import Options

WAYS: list[dict[str, Any]] = [
    {"allocation": "preserve"},
    {"allocation": "random"},
    {"allocation": "sequential"},
    {"allocation": "hashed"},
    {"allocation": "blocks", "block_size": 20},
    {"allocation": "deterministic", "block_size": 20, "clients": ["10.1.0.0/16"]},
]


def ports_of(flows: int, **settings: Any) -> tuple[list[int], Any]:
    """The source ports of flows of one client from ports 1024 on, in their order; the counters."""
    snat = Snat(["10.9.9.9"], ports=(50_000, 50_099), **settings)
    engine = controller_with(flows, snat=snat, options=Options(masquerade_all=True)).engine
    ports = {flow.source[1]: flow.reply_destination[1] for flow in engine.flows()}
    return [ports[port] for port in sorted(ports)], engine.stats()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way["allocation"])
@pytest.mark.parametrize("mapping", ["endpoint-dependent", "endpoint-independent"])
def test_each_way_gives_each_flow_a_port_of_the_range(way: dict[str, Any], mapping: str) -> None:
    ports, stats = ports_of(20, mapping=mapping, **way)
    assert len(set(ports)) == 20
    assert set(ports) <= set(range(50_000, 50_100))
    assert (stats.leased_ports, stats.port_use.allocations) == (20, 20)
    assert stats.port_use.collisions < stats.port_use.probes
    lines = {"blocks": 1, "deterministic": 0}.get(way["allocation"], 20)
    assert stats.port_use.log_lines == lines


def test_sequential_ports_follow_each_other_and_random_ones_do_not() -> None:
    def steps(**settings: Any) -> list[int]:
        ports, _ = ports_of(30, **settings)
        return [(port - last) % 100 for last, port in pairwise(ports)]

    assert set(steps(allocation="sequential")) == {1}
    assert set(steps(allocation="hashed")) == {1}, "there is one remote"
    assert steps(allocation="random").count(1) < 10


def test_a_block_is_within_its_bounds() -> None:
    ports, _ = ports_of(10, allocation="blocks", block_size=10, blocks_per_client=1)
    assert len({port // 10 for port in ports}) == 1
    ports, _ = ports_of(10, allocation="deterministic", block_size=10, clients=["10.1.0.0/24"])
    assert set(ports) == set(range(50_010, 50_020)), "10.1.0.1 has the second block"


def test_settings_can_be_read_and_compared() -> None:
    snat = Snat(["10.9.9.9"])
    assert (snat.allocation, snat.mapping) == ("preserve", "endpoint-dependent")
    assert (snat.block_size, snat.blocks_per_client, snat.clients) == (None, None, [])
    blocks = Snat(["10.9.9.9"], allocation="blocks")
    assert (blocks.block_size, blocks.blocks_per_client) == (512, 4)
    assert blocks == Snat(["10.9.9.9"], allocation="blocks", block_size=512, blocks_per_client=4)
    assert blocks != snat
    assert Snat(["10.9.9.9"], mapping="endpoint-independent") != snat
    fixed = Snat(["10.9.9.9"], allocation="deterministic", block_size=64, clients=["10.1.0.0/22"])
    assert (fixed.block_size, fixed.blocks_per_client) == (64, None)
    assert fixed.clients == ["10.1.0.0/22"]
    assert Snat([], ports=(50_000, 50_009), allocation="blocks").block_size == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ports": (5, 3)}, r"ports are a range \(low, high\), not \(5, 3\)"),
        (
            {"allocation": "round"},
            "allocation is 'preserve', 'random', 'sequential', 'hashed', 'blocks' or "
            "'deterministic', not 'round'",
        ),
        (
            {"mapping": "cone"},
            "mapping is 'endpoint-dependent' or 'endpoint-independent', not 'cone'",
        ),
        (
            {"allocation": "blocks", "block_size": 0},
            "block_size is a whole number from 1 to 65535, not 0",
        ),
        (
            {"allocation": "blocks", "block_size": 61_745},
            "block_size is a whole number from 1 to 61744, not 61745",
        ),
        (
            {"allocation": "blocks", "block_size": -1},
            "block_size is a whole number from 1 to 65535, not -1",
        ),
        (
            {"allocation": "blocks", "blocks_per_client": 65_536},
            "blocks_per_client is a whole number from 1 to 65535, not 65536",
        ),
        (
            {"block_size": 10},
            "block_size belongs to allocation 'blocks' or 'deterministic', not to 'preserve'",
        ),
        (
            {"allocation": "deterministic", "clients": ["10.0.0.0/8"], "blocks_per_client": 2},
            "blocks_per_client belongs to allocation 'blocks', not to 'deterministic'",
        ),
        (
            {"allocation": "blocks", "clients": ["10.0.0.0/8"]},
            "clients belongs to allocation 'deterministic', not to 'blocks'",
        ),
        ({"allocation": "deterministic"}, "allocation 'deterministic' needs clients"),
        (
            {"allocation": "deterministic", "clients": ["10.0.0.0/33"]},
            r"clients\[0\] is an IP address, or a range of them such as '10.0.0.0/8', not",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Snat(["10.9.9.9"], **settings)
