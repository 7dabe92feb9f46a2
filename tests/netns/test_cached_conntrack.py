"""Connection tracking and the flow cache: what conntrack misses, needs and forgets."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import traffic
from harness.cached import PROTOCOLS, Talk, cached_daemon, forge, talk
from harness.clients import FAMILIES
from harness.daemons import Daemon
from harness.tracked import set_timeout, tracked
from harness.waiting import eventually
from kbe_nat.family import Family

HELPERS = {"tcp": "ftp", "udp": "tftp"}
HELPER = """table inet helpers {
  ct helper reads { type "%s" protocol %s; }
  chain prerouting {
    type filter hook prerouting priority -150; policy accept;
    meta l4proto %s th dport 53 ct helper set "reads"
  }
}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with cached_daemon(tmp_path) as made:
        yield made


def resync(daemon: Daemon) -> None:
    """Has the daemon look at all of conntrack's flows."""
    daemon.get("flows")


@FAMILIES
def test_an_idle_connection_is_kept_although_conntrack_missed_its_acknowledgements(
    daemon: Daemon, family: Family
) -> None:
    cluster = daemon.cluster
    set_timeout(cluster, "tcp_timeout_unacknowledged", 8)
    with ExitStack() as stack:

        def taken_for_unacknowledged() -> Talk | None:
            # The last packet that conntrack has seen is an answer, or the acknowledgement of one.
            own = stack.enter_context(talk(daemon, family, "tcp"))
            own.await_cache()
            own.ask()
            return own if tracked(cluster, own).timeout <= 8 else None

        own = eventually(taken_for_unacknowledged, 90)
        assert own is not None
        resync(daemon)
        kept = tracked(cluster, own)
        assert kept.timeout > 80_000
        # Longer than the timeout that it would have had.
        eventually(lambda: tracked(cluster, own).timeout < kept.timeout - 9)
        assert own.ask() == "a"
        assert tracked(cluster, own).number == kept.number
        own.await_cache()


@FAMILIES
@PROTOCOLS
def test_a_flow_with_a_helper_is_never_cached(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    rules = daemon.folder / "rules"
    rules.write_text(HELPER % (HELPERS[protocol], protocol, protocol))
    daemon.cluster.node.call("nft", "-f", str(rules))
    with talk(daemon, family, protocol) as own:
        eventually(lambda: own.ask() and "conntrack has to see each packet" in own.explained())
        assert "helper=" in tracked(daemon.cluster, own).row
        assert not own.is_cached()
        daemon.cluster.node.call("nft", "delete", "table", "inet", "helpers")
        with talk(daemon, family, protocol) as plain:
            plain.await_cache()
        assert not own.is_cached()


@FAMILIES
def test_a_connection_that_a_stray_segment_has_taken_out_is_cached_again(
    daemon: Daemon, family: Family
) -> None:
    with talk(daemon, family, "tcp") as own:
        own.await_cache()
        forge(daemon, own, traffic.SYN)
        assert not own.is_cached(), "another connection may begin"

        def is_cached_again() -> bool:
            resync(daemon)
            return own.is_cached()

        eventually(is_cached_again)


@FAMILIES
@PROTOCOLS
def test_a_client_with_all_the_room_leaves_some_for_another(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-flows", "4")
    with ExitStack() as stack:
        greedy = [stack.enter_context(talk(daemon, family, protocol)) for _ in range(5)]
        # Each look asks the daemon ten times.
        eventually(lambda: sum(own.is_cached() for own in greedy) == 4, 90)
        other = stack.enter_context(talk(daemon, family, protocol, where=daemon.cluster.pods[1]))
        other.await_cache()
        eventually(lambda: sum(own.is_cached() for own in greedy) == 3, 90)
        assert any("had more need of the room" in own.explained() for own in greedy)
        assert other.is_cached()
