"""Policies of IPsec and programs on devices that others bring while the cache carries flows."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cached import PROTOCOLS, ROUNDS, Begin, cached_daemon, counters
from harness.clients import FAMILIES, NAMES
from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat._native import FlowCache
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It serves one pod in both families."""
    with cached_daemon(tmp_path) as made:
        yield made


@FAMILIES
@PROTOCOLS
def test_a_policy_of_ipsec_is_in_force_for_cached_flows(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own, node = cached(family, protocol), daemon.cluster.node
    before = counters(daemon)["cache-generations"]
    size = 128 if family == Family.IPV6 else 32
    try:
        node.call("ip", "xfrm", "policy", "add", "dst", f"{NAMES['a'][family]}/{size}",
                  "dir", "out", "action", "block")  # fmt: skip
    except PlaygroundError as error:
        pytest.skip(f"no policies of IPsec here: {error}")
    # Told of, and not found out by the packet a second that goes the kernel's way.
    eventually(lambda: counters(daemon)["cache-generations"] > before)
    eventually(lambda: own.is_silent(0.2))
    before = counters(daemon)["cache-generations"]
    node.call("ip", "xfrm", "policy", "flush")
    eventually(lambda: counters(daemon)["cache-generations"] > before)
    eventually(lambda: not own.is_silent(2))


@FAMILIES
def test_packets_that_ipsec_alone_may_bring_are_left_to_the_kernel(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    """A plain one with the ends of a flow that IPsec has brought would pass the policy by."""
    own, node = cached(family, "udp"), daemon.cluster.node
    near, far = (
        ("fd00:98::1", "fd00:98::2") if family == Family.IPV6 else ("192.0.2.1", "192.0.2.2")
    )
    try:
        node.call("ip", "xfrm", "policy", "add", "src", far, "dst", near, "dir", "fwd",
                  "tmpl", "src", far, "dst", near, "proto", "esp", "mode", "tunnel")  # fmt: skip
    except PlaygroundError as error:
        pytest.skip(f"no policies of IPsec here: {error}")
    eventually(lambda: "(ip xfrm, dir fwd)" in own.explained())
    before = counters(daemon)["cache-hits"]
    for _ in range(3):
        assert not own.is_cached()
    assert counters(daemon)["cache-hits"] == before
    node.call("ip", "xfrm", "policy", "flush")
    own.await_cache()


def test_a_key_of_ipsec_voids_the_cache(daemon: Daemon, cached: Begin) -> None:
    cached(Family.IPV4, "udp")
    before = counters(daemon)["cache-generations"]
    try:
        daemon.cluster.node.call(
            "ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp",
            "spi", "1", "enc", "ecb(cipher_null)", "",
        )  # fmt: skip
    except PlaygroundError as error:
        pytest.skip(f"no keys of IPsec here: {error}")
    eventually(lambda: counters(daemon)["cache-generations"] > before)


@PROTOCOLS
def test_a_program_of_others_that_comes_later_sees_cached_packets(
    daemon: Daemon, cached: Begin, protocol: str
) -> None:
    own, node = cached(Family.IPV4, protocol), daemon.cluster.node
    stranger = FlowCache(max_flows=64)

    def attach() -> None:
        for _, name in socket.if_nameindex():
            if name == "eth0":
                stranger.attach(socket.if_nametoindex(name))

    inside(node.path, attach)

    def seen() -> int:
        return sum(stranger.counters().values())

    def is_seen() -> bool:
        before = seen()
        return own.is_cached() and seen() - before >= ROUNDS

    eventually(is_seen, 60)
    # Nobody comes behind the stranger any more, which has come twice: for each direction.
    before = counters(daemon)["cache-moves-behind-others"]
    own.await_cache()
    assert counters(daemon)["cache-moves-behind-others"] == before
    assert before in (1, 2)
