"""What tests of the command line share."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP

from harness.captures import ETHERNET, pcap
from harness.full_engine import controller_with, verbs_of
from harness.verbs import START, Ran, handshake
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.control_socket import ControlServer


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    frames = [frame for client in range(100) for frame in handshake(client)]
    frames += [ETHERNET + bytes(IP(src="10.0.2.15", dst="192.0.2.1") / TCP(flags="S"))]
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap([(START + n * 1_000_000, frame) for n, frame in enumerate(frames)], 1))
    return path


@pytest.fixture(autouse=True)
def _kept_log() -> Iterator[None]:
    """The daemon sends its log to the standard error of this process, which is a test's own: others
    get back what they had.
    """
    log = logging.getLogger("kbe_nat")
    handlers, level, propagates = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagates
    log.setLevel(level)


@pytest.fixture
def kbe(capsys: pytest.CaptureFixture[str]) -> Ran:
    return Ran(capsys)


@pytest.fixture
def controller() -> Controller:
    return controller_with(3)


@pytest.fixture
def socket(tmp_path: Path, controller: Controller) -> Iterator[Path]:
    """A control socket of this controller."""
    with ControlServer(tmp_path / "control.sock", verbs_of(controller)):
        yield tmp_path / "control.sock"


@pytest.fixture
def ask(kbe: Ran, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The command, with this socket."""
    monkeypatch.setenv("KBE_NAT_SOCKET", str(socket))
    return kbe
