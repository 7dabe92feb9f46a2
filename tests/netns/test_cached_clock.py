"""The cache where the daemon's clocks are not the machine's: in a time namespace."""

import signal
from pathlib import Path

import pytest

from harness.cached import cached_node, talk
from harness.tracked import kernel_sees
from harness.waiting import eventually
from kbe_nat.family import Family


@pytest.mark.parametrize(
    "shift",
    [("--monotonic", "100000"), ("--monotonic", "-1000"), ("--boottime", "100000")],
    ids=lambda shift: "".join(shift).strip("-"),
)
def test_the_lease_holds_and_ends_whatever_the_daemons_clock_says(
    tmp_path: Path, shift: tuple[str, ...]
) -> None:
    with cached_node(tmp_path) as daemon:
        daemon.wrapper = ("unshare", "--time", *shift)
        daemon.start()
        with talk(daemon, Family.IPV4, "udp") as own:
            own.await_cache()
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGSTOP)
            # A lease by a clock that is ahead would last for a day.
            eventually(lambda: kernel_sees(own), 20)
            daemon.process.send_signal(signal.SIGCONT)
            own.await_cache()
