"""Routes that lead the packets of a flow through a program, or give them another header: the cache
must not send these by their bytes.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cached import PROTOCOLS, Begin, cached_daemon, cached_node, counters, talk
from harness.clients import FAMILIES, NAMES
from harness.daemons import Daemon
from harness.programs import PASS_BY
from harness.waiting import eventually
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family

WORDS = "not on {}: a route's program sees what leaves by it"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It serves one pod in both families."""
    with cached_daemon(tmp_path) as made:
        yield made


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """For routes; as long as there is a compiler for it."""
    made = tmp_path / "pass.o"
    command = ("clang", "-O2", "-target", "bpf", "-c", str(PASS_BY), "-o", str(made))
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        pytest.skip("no clang here")
    return made


def to_pod(daemon: Daemon, family: Family) -> tuple[str, str]:
    """The first pod's address, and the device by which the node's packets go there."""
    address = NAMES["a"][family]
    words = daemon.cluster.node.call("ip", "route", "get", address).split()
    return address, words[words.index("dev") + 1]


def route(daemon: Daemon, address: str, *words: str) -> None:
    """Leads packets for the address so; skips where the kernel or ip(8) cannot."""
    try:
        daemon.cluster.node.call("ip", "route", "replace", address, *words)
    except PlaygroundError as error:
        pytest.skip(f"no such routes here: {error}")


@FAMILIES
@PROTOCOLS
def test_a_program_of_a_route_sees_all_packets(
    daemon: Daemon, cached: Begin, program: Path, family: Family, protocol: str
) -> None:
    own = cached(family, protocol)
    address, device = to_pod(daemon, family)
    route(
        daemon, address, "dev", device,
        "encap", "bpf", "out", "obj", str(program), "section", "lwt_out",
    )  # fmt: skip
    eventually(lambda: WORDS.format(device) in own.explained())
    before = counters(daemon)["cache-hits"]
    for _ in range(3):
        assert not own.is_cached()
    assert counters(daemon)["cache-hits"] == before
    daemon.cluster.node.call("ip", "route", "del", address)
    own.await_cache()


@FAMILIES
def test_a_program_of_a_route_that_was_there_before_sees_all_packets(
    tmp_path: Path, program: Path, family: Family
) -> None:
    with cached_node(tmp_path) as daemon:
        address, device = to_pod(daemon, family)
        words = ("encap", "bpf", "out", "obj", str(program), "section", "lwt_out")
        route(daemon, address, "dev", device, *words)
        daemon.start()
        with talk(daemon, family, "udp") as own:

            def is_left_out() -> bool:
                own.ask()
                return WORDS.format(device) in own.explained()

            eventually(is_left_out)
            assert counters(daemon)["cache-hits"] == 0


@PROTOCOLS
def test_packets_get_the_header_of_a_route_with_segments(
    daemon: Daemon, cached: Begin, protocol: str
) -> None:
    """The pod does not know it, so that nothing comes there any more."""
    own = cached(Family.IPV6, protocol)
    address, device = to_pod(daemon, Family.IPV6)
    route(daemon, address, "encap", "seg6", "mode", "encap", "segs", "fd00:17::9", "dev", device)
    eventually(lambda: own.is_silent(0.2))
    before = counters(daemon)["cache-hits"]
    for _ in range(10):
        assert own.is_silent(0.2)
    assert counters(daemon)["cache-hits"] == before
