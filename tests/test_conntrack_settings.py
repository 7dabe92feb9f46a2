"""The section `conntrack` of kube-proxy's configuration, in the kernel's settings and in the
engine.
"""

import logging
from pathlib import Path

import pytest

import kbe_nat
from harness import traffic
from kbe_nat.daemon.conntrack import conntrack_settings
from kbe_nat.datapath import conntrack_settings as module
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.errors import ArgumentError
from kbe_nat.kubeproxy.config import Configuration, Conntrack

PREFIX = "net.netfilter.nf_conntrack_"
KERNEL = {
    f"{PREFIX}max": "262144",
    f"{PREFIX}tcp_timeout_established": "432000",
    f"{PREFIX}tcp_timeout_close_wait": "60",
    f"{PREFIX}udp_timeout": "30",
    f"{PREFIX}udp_timeout_stream": "120",
    f"{PREFIX}tcp_be_liberal": "0",
}


class Kernel:
    """Settings that can be read, and those that can be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hash_size: Path, *fixed: str) -> None:
        self.values = dict(KERNEL)
        self.written: list[str] = []
        self._fixed = fixed
        hash_size.write_text("65536\n")
        monkeypatch.setattr(module, "sysctl", self.values.get)
        monkeypatch.setattr(module, "set_sysctl", self._set)
        monkeypatch.setattr(module, "HASH_SIZE", hash_size)
        monkeypatch.setattr("os.cpu_count", lambda: 8)

    def _set(self, setting: str, number: int) -> None:
        if setting in self._fixed:
            raise PermissionError(13, "Permission denied")
        self.values[setting] = str(number)
        self.written.append(setting.removeprefix(PREFIX))


@pytest.fixture
def hash_size(tmp_path: Path) -> Path:
    return tmp_path / "hashsize"


def test_kube_proxy_s_defaults_hold(monkeypatch: pytest.MonkeyPatch, hash_size: Path) -> None:
    settings = conntrack_settings(Configuration())
    assert settings == ConntrackSettings(32768, 131072, 86400.0, 3600.0)
    kernel = Kernel(monkeypatch, hash_size)
    assert settings.set_in_kernel() == []
    # The table has more room already, and 0 leaves UDP's timeouts alone.
    assert kernel.written == ["tcp_timeout_established", "tcp_timeout_close_wait"]
    assert kernel.values[f"{PREFIX}tcp_timeout_established"] == "86400"
    assert settings.set_in_kernel() == [] and len(kernel.written) == 2, "nothing differs now"
    assert hash_size.read_text() == "65536\n"


@pytest.mark.parametrize(
    ("section", "size", "buckets"),
    [
        (Conntrack(max_per_core=100_000), "800000", "200000"),
        (Conntrack(max_per_core=1, min=300_000), "300000", "75000"),
        (Conntrack(max_per_core=1, min=262_144), "262144", "65536\n"),
        # Never lower than it was.
        (Conntrack(max_per_core=1, min=1), "262144", "65536\n"),
        # 0 leaves the table alone, whatever the least is.
        (Conntrack(max_per_core=0, min=10**6), "262144", "65536\n"),
    ],
)
def test_the_table_only_grows(
    monkeypatch: pytest.MonkeyPatch, hash_size: Path, section: Conntrack, size: str, buckets: str
) -> None:
    kernel = Kernel(monkeypatch, hash_size)
    assert conntrack_settings(Configuration(conntrack=section)).set_in_kernel() == []
    assert (kernel.values[f"{PREFIX}max"], hash_size.read_text()) == (size, buckets)


def test_all_timeouts_and_liberal_tcp(monkeypatch: pytest.MonkeyPatch, hash_size: Path) -> None:
    section = Conntrack(0, 0, "2h", "0s", True, "1500ms", "3m")
    kernel = Kernel(monkeypatch, hash_size)
    settings = conntrack_settings(Configuration(conntrack=section))
    assert settings.set_in_kernel() == []
    changed = {name: value for name, value in kernel.values.items() if value != KERNEL[name]}
    assert changed == {
        f"{PREFIX}tcp_timeout_established": "7200",
        f"{PREFIX}udp_timeout": "2",
        f"{PREFIX}udp_timeout_stream": "180",
        f"{PREFIX}tcp_be_liberal": "1",
    }
    seconds = settings.timeouts().seconds
    assert seconds == {
        **kbe_nat.TIMEOUTS,
        "tcp_established": 7200,
        "udp": 1.5,
        "udp_stream": 180,
    }


def test_settings_that_cannot_be_written_are_named(
    monkeypatch: pytest.MonkeyPatch, hash_size: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kernel = Kernel(monkeypatch, hash_size, f"{PREFIX}max", f"{PREFIX}udp_timeout")
    settings = ConntrackSettings(100_000, 0, 60, udp=5)
    assert settings.set_in_kernel() == [
        "net.netfilter.nf_conntrack_max = 800000 (Permission denied)",
        "net.netfilter.nf_conntrack_udp_timeout = 5 (Permission denied)",
    ]
    assert kernel.written == ["tcp_timeout_established"], "the others are set"
    assert hash_size.read_text() == "65536\n", "no larger hash for a table of the same size"


def test_what_would_be_set_is_shown_and_not_set(
    monkeypatch: pytest.MonkeyPatch, hash_size: Path
) -> None:
    kernel = Kernel(monkeypatch, hash_size)
    del kernel.values[f"{PREFIX}udp_timeout"]
    settings = ConntrackSettings(100_000, 0, 60, udp=1.5, is_liberal=True)
    shown = settings.render()
    assert shown.splitlines() == [
        "# sysctl",
        "net.netfilter.nf_conntrack_max = 800000  # was 262144",
        "net.netfilter.nf_conntrack_tcp_timeout_established = 60  # was 432000",
        "net.netfilter.nf_conntrack_udp_timeout = 2  # not there yet",
        "net.netfilter.nf_conntrack_tcp_be_liberal = 1  # was 0",
        f"# {hash_size}: 200000 instead of 65536",
    ]
    assert (kernel.written, hash_size.read_text()) == ([], "65536\n")
    assert settings.set_in_kernel() == []
    assert settings.render() == "", "nothing differs any more"


def test_a_larger_table_gets_its_hash_whatever_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, hash_size: Path
) -> None:
    Kernel(monkeypatch, hash_size, f"{PREFIX}udp_timeout")
    assert len(ConntrackSettings(100_000, 0, udp=5).set_in_kernel()) == 1
    assert hash_size.read_text() == "200000"


def test_timeouts_of_an_engine() -> None:
    with pytest.raises(ArgumentError, match='no timeout is named "tcp"'):
        kbe_nat.Timeouts(tcp=1)
    with pytest.raises(ArgumentError, match="udp is a number from 0 to 31536000, not -1"):
        kbe_nat.Timeouts(udp=-1)
    assert kbe_nat.Timeouts() == kbe_nat.Timeouts(udp=30) != kbe_nat.Timeouts(udp=31)
    service = kbe_nat.ServicePort(
        "a/b",
        [kbe_nat.Frontend("172.30.0.1", 53)],
        [kbe_nat.Backend("10.0.0.1", 53)],
        protocol="udp",
    )
    engine = kbe_nat.Engine(timeouts=kbe_nat.Timeouts(udp=7))
    engine.replace_services([service])
    for sport, timeouts in ((1, None), (2, kbe_nat.Timeouts(udp=70))):
        if timeouts is not None:
            engine.set_timeouts(timeouts)
        body = traffic.udp(sport, 53)
        engine.process(traffic.ip("10.0.1.1", "172.30.0.1", 17, body), now=0)
    assert sorted(round(flow.timeout) for flow in engine.flows()) == [7, 70]
