"""A configuration file that changes while the daemon runs."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from kbe_nat.cli.flags.command_line import CommandLine, configuration_file
from kbe_nat.cli.flags.own_options import own_options
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live_fields import LIVE, RESTART, WITH_API_SERVER, is_within
from kbe_nat.daemon.live_settings import LiveSettings
from kbe_nat.daemon.settings import Settings
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.errors import FileError, RulesError, SettingError
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.inapplicable import INAPPLICABLE
from kbe_nat.kubeproxy.settings import NodeSettings, RejectWith
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.policy.options import Mode

FILE = """
mode: iptables
conntrack: {tcpEstablishedTimeout: 2h}
kbeNat: {strategy: rr, maxFlows: 1000}
"""


class Planning:
    """In the place of a controller."""

    def __init__(self) -> None:
        self.plans = 0
        self.removed_seconds: float | None = None
        self.tracking: list[ConntrackSettings] = []
        self.refusals: list[str] = []
        self.check: Callable[[], object] = lambda: None

    def replan(self) -> bool:
        self.check()
        self.plans += 1
        return True

    def end_removed_after(self, seconds: float | None) -> None:
        self.removed_seconds = seconds

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        self.tracking.append(settings)
        return self.refusals


class Running:
    """Settings that follow a file, as a daemon has them."""

    def __init__(
        self,
        path: Path,
        text: str = FILE,
        *,
        has_api_server: bool = False,
        host_name: str = "",
    ) -> None:
        self.path = path
        path.write_text(text)
        kube_proxy = {"hostname-override": (host_name,)} if host_name else {}
        line = CommandLine(Settings(node=NodeSettings(config=path)), frozenset(), kube_proxy)
        self.live = LiveSettings(
            line.settings()[0], configuration_file(line), has_api_server=has_api_server
        )
        self.controller = Planning()

    def follow(self, text: str | None = None) -> Settings:
        if text is not None:
            self.path.write_text(text)
        self.live.follow(cast("Controller", self.controller))
        return self.live.settings


@pytest.fixture
def running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Running:
    logging.getLogger("kbe_nat").propagate = True
    caplog.set_level(logging.INFO)
    return Running(tmp_path / "config.yaml")


def test_a_file_that_stays_costs_nothing(running: Running) -> None:
    running.follow()
    running.follow(FILE)
    assert (running.controller.plans, running.controller.tracking) == (0, [])


def test_what_can_change_is_in_force_and_logged(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    text = FILE.replace("iptables", "nftables").replace("2h", "3h").replace("rr", "wlc")
    settings = running.follow(f"{text}\nclusterCIDR: 10.0.0.0/8\nlogging: {{verbosity: 0}}")
    assert settings.balancing.strategy is Strategy.WEIGHTED_LEAST_CONNECTIONS
    options = settings.node.options(Snapshot(), settings.configuration)
    assert (options.mode, options.cluster_ranges) == (Mode.NFTABLES, ("10.0.0.0/8",))
    assert running.controller.plans == 1
    assert [each.tcp_established for each in running.controller.tracking] == [10800]
    [line] = [line for line in caplog.messages if "the configuration has changed" in line]
    for name in ("mode", "clusterCIDR", "conntrack.tcpEstablishedTimeout", "kbeNat.strategy"):
        assert name in line
    assert "restart" not in caplog.text


@pytest.mark.parametrize("has_api_server", [True, False])
def test_what_the_api_server_is_asked_for_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_api_server: bool
) -> None:
    logging.getLogger("kbe_nat").propagate = True
    caplog.set_level(logging.INFO)
    running = Running(tmp_path / "config.yaml", has_api_server=has_api_server)
    text = FILE.replace("iptables", "nftables").replace("2h", "3h")
    text = text.replace("rr", "rr, serviceProxyName: other") + "\nhostnameOverride: other"
    settings = running.follow(text)
    assert "conntrack.tcpEstablishedTimeout" in caplog.text
    if not has_api_server:
        assert "restart" not in caplog.text
        assert settings.configuration.hostname_override == "other"
        assert settings.node.proxy_name == "other"
        return
    assert settings.configuration.mode == "iptables"
    assert settings.configuration.hostname_override == ""
    assert settings.node.proxy_name is None
    [warning] = [each for each in caplog.messages if "restart" in each]
    assert warning == (
        "the configuration has changed, restart needed for: hostnameOverride (the API server is"
        " asked for the Node of this name); mode (the API server is asked for service ranges in"
        " nftables mode alone); kbeNat.serviceProxyName (the API server is asked for the Services"
        " of this label)"
    )


def test_the_rest_is_named_and_stays(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    text = FILE.replace("1000", "2000").replace("rr", "rr, rejectWith: tcp-reset, queue: 7")
    settings = running.follow(f"{text}\nbindAddressHardFail: true")
    assert (settings.limits.max_flows, settings.queues.first) == (1000, 100)
    assert not settings.configuration.bind_address_hard_fail
    assert settings.node.reject_with is RejectWith.TCP_RESET
    [warning] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert warning.getMessage() == (
        "the configuration has changed, restart needed for: bindAddressHardFail (it counts at the"
        " start alone); kbeNat.queue (a queue that is opened anew loses what waits in it);"
        " kbeNat.maxFlows (the engine's tables keep their size)"
    )
    assert running.controller.tracking == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: [", "not YAML"),
        ("mode: best", "mode: 'best'"),
        ("kbeNat: {maxFlow: 5}", "did you mean maxFlows"),
    ],
)
def test_a_wrong_file_leaves_everything_in_force_until_it_is_right(
    running: Running, text: str, said: str
) -> None:
    before = running.live.settings
    for _ in range(2):
        with pytest.raises(FileError, match=said.replace("[", r"\[")):
            running.follow(text)
    assert running.live.settings is before and running.controller.plans == 0
    assert running.follow(FILE.replace("rr", "sh")).balancing.strategy is Strategy.SOURCE_HASH


def test_options_that_contradict_the_node_are_not_taken(running: Running) -> None:
    def refuse() -> None:
        raise SettingError("--pod-bridge-interface", "needs the name of a device")

    before, running.controller.check = running.live.settings, refuse
    with pytest.raises(SettingError):
        running.follow("detectLocalMode: BridgeInterface")
    assert running.live.settings is before


def test_rules_that_the_kernel_refuses_are_tried_again_by_others(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise RulesError("no memory")

    running.controller.check = refuse
    assert running.follow("mode: nftables").configuration.mode == "nftables"
    assert "rules are not up to date: no memory" in caplog.text


def test_settings_that_the_kernel_refuses_are_a_warning(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.controller.refusals = ["nf_conntrack_max = 5 (Read-only file system)"]
    running.follow("conntrack: {maxPerCore: 5}")
    assert "the kernel tracks connections as before: nf_conntrack_max = 5" in caplog.text


def test_flags_of_the_start_go_on_to_count(tmp_path: Path) -> None:
    running = Running(tmp_path / "config.yaml", host_name="here")
    settings = running.follow("mode: nftables\nhostnameOverride: there")
    assert settings.configuration.hostname_override == "here"


def test_a_file_that_is_away_for_a_moment_is_waited_for(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    running.path.unlink()
    running.follow()
    now += 1
    running.follow()
    now += 2
    with pytest.raises(FileError, match="No such file"):
        running.follow()


def test_a_wrong_file_that_is_taken_away_has_not_become_right(
    running: Running,
) -> None:
    with pytest.raises(FileError, match="did you mean mode"):
        running.follow("mod: x")
    running.path.unlink()
    with pytest.raises(FileError, match="did you mean mode"):
        running.follow()
    running.follow(FILE.replace("rr", "sh"))
    running.path.unlink()
    running.follow()


def test_a_config_map_s_link_may_lead_elsewhere(tmp_path: Path) -> None:
    for name, strategy in (("..1", "rr"), ("..2", "sh")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(FILE.replace("rr", strategy))
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    line = CommandLine(Settings(node=NodeSettings(config=path)), frozenset(), {})
    live = LiveSettings(line.settings()[0], configuration_file(line))
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    live.follow(cast("Controller", Planning()))
    assert live.settings.balancing.strategy is Strategy.SOURCE_HASH


def leaves(value: dict[str, Any], place: str = "") -> list[str]:
    """The paths of all fields of the file."""
    paths = []
    for name, inner in value.items():
        path = f"{place}{name}"
        is_section = isinstance(inner, dict) and inner
        paths += leaves(inner, f"{path}.") if is_section else [path]
    return paths


FIELDS = [path for path in leaves(msgspec.to_builtins(Configuration())) if path != "kbeNat"]
OPTIONS = [f"kbeNat.{option.key}" for option in own_options()]


@pytest.mark.parametrize("path", [*FIELDS, *OPTIONS])
def test_it_is_decided_what_a_change_of_each_field_does(path: str) -> None:
    # Sections of a mode have two fields that only the other mode has.
    assert [is_within(path, table) for table in (LIVE, RESTART, INAPPLICABLE)].count(True) == 1


def test_no_decision_is_about_a_field_that_is_not() -> None:
    for path in (*LIVE, *RESTART, *INAPPLICABLE):
        assert any(is_within(each, [path]) for each in (*FIELDS, *OPTIONS)), path
    assert WITH_API_SERVER.keys() <= LIVE.keys()


def test_the_page_of_fields_is_up_to_date() -> None:
    tool = Path(__file__).parents[1] / "tools/fields_page.py"
    subprocess.run([sys.executable, str(tool), "--check"], check=True)


@pytest.mark.parametrize(
    ("text", "take"),
    [
        ("iptables: {syncPeriod: 7s}", lambda each: each.node.stale_seconds(each.configuration)),
        ("healthzBindAddress: 127.0.0.1:9", lambda each: health_of(each)),
        ("bindAddress: '::'", lambda each: health_of(each)),
        ("metricsBindAddress: 127.0.0.1:9", lambda each: metrics_of(each)),
        ("oomScoreAdj: 5", lambda each: each.configuration.oom_score_adj),
        ("kbeNat: {drainRemoved: 5}", lambda each: each.balancing.drain_removed),
        ("kbeNat: {metricsBackends: off}", lambda each: each.servers.backends),
        ("kbeNat: {metricsBindAddress: ''}", lambda each: metrics_of(each)),
        ("nodePortAddresses: [primary]", lambda each: each.configuration.node_port_addresses),
    ],
)
def test_parts_that_can_follow_are_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    take: Callable[[Settings], object],
) -> None:
    logging.getLogger("kbe_nat").propagate = True
    running = Running(tmp_path / "config.yaml", "mode: iptables")
    before = take(running.live.settings)
    followed: list[object] = []
    running.live.followers.append(lambda settings: followed.append(take(settings)))
    running.follow(f"mode: iptables\n{text}")
    assert len(followed) == 1 and followed[0] != before
    assert "restart" not in caplog.text
    running.follow("mode: iptables")
    assert followed[1] == before


def health_of(settings: Settings) -> object:
    return settings.servers.health_address(settings.configuration)


def metrics_of(settings: Settings) -> object:
    return settings.servers.metrics_address(settings.configuration)


def test_drains_have_the_time_that_the_file_says(running: Running) -> None:
    running.follow(FILE.replace("rr", "rr, drainRemoved: 7"))
    assert running.controller.removed_seconds == 7
    running.follow(FILE)
    assert running.controller.removed_seconds is None
