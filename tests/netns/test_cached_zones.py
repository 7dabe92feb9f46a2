"""Flows that the cache leaves to the kernel: of another conntrack zone, and of the node itself. And
the cache under another clock.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cached import PROTOCOLS, cached_daemon, cached_node, talk
from harness.clients import FAMILIES
from harness.daemons import Daemon
from harness.tracked import kernel_sees, tracked
from harness.waiting import eventually
from kbe_nat.family import Family

ZONE = """table inet zones {
  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname "eth0" ct zone set 7
    ip daddr 10.0.2.100 ct zone set 7
    ip6 daddr fd00:2::100 ct zone set 7
  }
}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with cached_daemon(tmp_path) as made:
        yield made


@FAMILIES
@PROTOCOLS
def test_a_flow_of_another_zone_is_never_cached(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    (daemon.folder / "rules").write_text(ZONE)
    daemon.cluster.node.call("nft", "-f", str(daemon.folder / "rules"))
    with (
        talk(daemon, family, protocol) as own,
        talk(daemon, family, protocol, where=daemon.cluster.pods[1]) as plain,
    ):
        eventually(lambda: own.ask() and plain.is_cached())
        assert "zone=7" in tracked(daemon.cluster, own).row
        assert not own.is_cached()


@FAMILIES
@PROTOCOLS
def test_the_nodes_own_flows_are_never_cached(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    with (
        talk(daemon, family, protocol, where=daemon.cluster.node) as own,
        talk(daemon, family, protocol) as plain,
    ):
        eventually(lambda: own.ask() and plain.is_cached())
        assert not own.is_cached()
        assert "the node itself" in own.explained()


@FAMILIES
@PROTOCOLS
def test_the_cache_works_in_a_time_namespace(tmp_path: Path, family: Family, protocol: str) -> None:
    with cached_node(tmp_path) as daemon:
        daemon.wrapper = ("unshare", "--time", "--boottime", "100000")
        daemon.start()
        with talk(daemon, family, protocol) as own:
            own.await_cache()
            # The beat counts by the clock of the programs: it ends with the daemon.
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGSTOP)
            eventually(lambda: kernel_sees(own))
            daemon.process.send_signal(signal.SIGCONT)
            own.await_cache()
