"""What `explain` says of a flow that goes by a device on which the cache does not stand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cached import PROTOCOLS, cached_node, counters, steadily, talk
from harness.clients import FAMILIES
from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat.family import Family


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It is to be started, and will serve one pod in both families."""
    with cached_node(tmp_path) as made:
        yield made


@FAMILIES
@PROTOCOLS
def test_the_device_of_the_flow_is_named_and_no_other(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    daemon.cluster.node.call("ip", "tuntap", "add", "t0", "mode", "tun")
    # Towards the client; the programs stand where packets leave for the pod, and make entries.
    daemon.start("--cache-exclude-device", "eth0")
    eventually(lambda: "t0" in daemon.get("stats")["uncached_devices"])
    # Entries that no packet renews end soon, and with them what is known of the flow's devices.
    with talk(daemon, family, protocol) as own, steadily(own):

        def refusal() -> str:
            said = own.explained()
            return said if "does not stand on a device of the flow" in said else ""

        said = eventually(refusal)
    assert "no: " in said and "not on eth0: --cache-exclude-device names it" in said
    assert "t0" not in said
    assert counters(daemon)["cache-hits"] == 0
