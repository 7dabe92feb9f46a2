"""What the cache has carried counts for a flow over the daemon's restart."""

import signal
from pathlib import Path
from typing import Any

import pytest

from harness.cached import PROTOCOLS, Talk, cached_daemon, hits, talk
from harness.clients import FAMILIES
from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat.family import Family

QUESTIONS = 300


def row_of(daemon: Daemon, own: Talk) -> dict[str, Any]:
    """The flow as lists have it, by its client's port."""
    rows = [row for row in daemon.get("flows") if row["source"].endswith(f":{own.source[1]}")]
    assert len(rows) == 1
    return dict(rows[0])


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_what_the_cache_has_carried_outlives_the_daemon(
    tmp_path: Path, family: Family, protocol: str, number: int
) -> None:
    with cached_daemon(tmp_path) as daemon, talk(daemon, family, protocol) as own:
        own.await_cache()
        for _ in range(QUESTIONS):
            own.ask()
        assert hits(daemon) >= QUESTIONS
        for _ in range(2):
            daemon.end(number)
            daemon.start()
            # Of UDP a packet each way for each question; of TCP acknowledgements beside these.
            eventually(lambda: min(row_of(daemon, own)["packets"]) >= own.asked)
            if protocol == "udp":
                assert row_of(daemon, own)["packets"] == [own.asked] * 2
