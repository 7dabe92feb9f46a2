"""What a version keeps is read by the one before it and by the one after it: no flow is lost."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kbe_nat
from harness.kept_state import FILE, NOW, STAMP, engine, later, packets
from kbe_nat.daemon.checkpoints import HEAD_SIZE, CheckpointFile, Clocks, Stamp

FLOWS = 24


class Frozen(Clocks):
    """Clocks that stand still at the moment at which the file was written."""

    def boot(self) -> bytes:
        return STAMP.boot

    def since_boot(self) -> int:
        return STAMP.since_boot

    def wall(self) -> int:
        return STAMP.wall


def backends(of: kbe_nat.Engine) -> dict[tuple[object, ...], tuple[str, int]]:
    flows = of.flows()
    return {(flow.protocol, flow.source, flow.destination): flow.reply_source for flow in flows}


@pytest.mark.parametrize("written", [bytes, later], ids=["version before", "version after"])
def test_f10_no_flow_is_lost_by_an_upgrade_or_a_downgrade(
    written: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.write_bytes(written(FILE.read_bytes()))
    after = engine()
    assert CheckpointFile(state, Frozen()).read(after) == FLOWS
    kept = backends(after)
    assert len(kept) == FLOWS
    # Their next packets go where the flows went.
    for packet in packets():
        verdict = after.process(packet, time.monotonic_ns(), incomplete_checksum=True)
        assert (verdict.action, verdict.is_new) == ("translate", False)
    assert backends(after) == kept


def test_f10_what_this_version_writes_is_what_the_version_before_reads() -> None:
    content = FILE.read_bytes()
    assert Stamp.decode(content) == STAMP
    assert content.startswith(STAMP.encode())
    after = engine()
    assert after.restore(content[HEAD_SIZE:], NOW) == FLOWS
    # That version takes its own bytes back, so equal ones are read too.
    assert after.checkpoint(NOW) == content[HEAD_SIZE:]
    # And the same packets lead to the same bytes without a file.
    fresh = engine()
    for packet in packets():
        fresh.process(packet, NOW, incomplete_checksum=True)
    assert len(fresh.checkpoint(NOW)) == len(content) - HEAD_SIZE
