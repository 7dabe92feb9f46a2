"""kube-proxy's configuration file and a daemon on real packets."""

import json
import re
import socket
from functools import partial
from typing import Any

import pytest

from harness.daemons import VIP, Daemon, kernel_rules, serves
from harness.stage import OFFLOADING_DAEMONS
from harness.waiting import eventually
from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_"
CONFIG = """
conntrack:
  maxPerCore: {per_core}
  tcpEstablishedTimeout: 2h
  tcpCloseWaitTimeout: 0s
  tcpBeLiberal: true
  udpStreamTimeout: 77s
"""


def kernel_value(daemon: Daemon, name: str) -> int:
    return int(daemon.cluster.node.call("cat", f"{CONNTRACK}{name}"))


def started(daemon: Daemon, text: str, *flags: str) -> None:
    """A daemon with this configuration file."""
    config = daemon.folder / "config.yaml"
    config.write_text(text)
    daemon.start("--config", str(config), *flags)
    eventually(lambda: serves(daemon))
    # The last that it does as it starts is to let connections be tracked as configured.
    eventually(lambda: "serving " in daemon.log)


def timeouts(daemon: Daemon) -> list[int]:
    """Of the established connections to the Service, as the engine and the kernel count them."""
    rows: list[dict[str, Any]] = json.loads(daemon.ask("conntrack", "-L", "-o", "json"))["items"]
    return [row["timeout"] for row in rows if row["state"] == "ESTABLISHED"]


@OFFLOADING_DAEMONS
def test_the_kernel_tracks_connections_as_configured(daemon: Daemon) -> None:
    before = kernel_value(daemon, "tcp_timeout_close_wait"), kernel_value(daemon, "udp_timeout")
    size = kernel_value(daemon, "max")
    started(daemon, CONFIG.format(per_core=1))
    assert kernel_value(daemon, "tcp_timeout_established") == 7200
    assert kernel_value(daemon, "udp_timeout_stream") == 77
    assert kernel_value(daemon, "tcp_be_liberal") == 1
    # 0 leaves the kernel's value, and the table is never made smaller.
    after = kernel_value(daemon, "tcp_timeout_close_wait"), kernel_value(daemon, "udp_timeout")
    assert (after, kernel_value(daemon, "max")) == (before, size)
    assert "WARNING" not in daemon.log
    daemon.end()
    # Connections go on without us, and so do their timeouts, as kube-proxy leaves them.
    assert kernel_value(daemon, "tcp_timeout_established") == 7200


@OFFLOADING_DAEMONS
def test_settings_that_the_kernel_keeps_are_one_warning(daemon: Daemon) -> None:
    # The table's size is the machine's, which a network namespace of its own may not change.
    started(daemon, CONFIG.format(per_core=50_000_000))
    warnings = [line for line in daemon.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert re.search(
        r"the kernel tracks connections as before: net\.netfilter\.nf_conntrack_max = \d+ \(",
        warnings[0],
    )
    assert kernel_value(daemon, "tcp_timeout_established") == 7200, "the others are set"


@pytest.mark.parametrize("daemon", [DatapathKind.EVERY_PACKET], indirect=True, ids=str)
def test_f40_the_engine_s_timeouts_are_those_of_the_configuration(daemon: Daemon) -> None:
    before = kernel_value(daemon, "tcp_timeout_established")
    started(daemon, CONFIG.format(per_core=1))
    with inside(daemon.cluster.client.path, lambda: socket.create_connection((VIP, 80), 10)):
        eventually(lambda: timeouts(daemon))
        assert all(7000 < seconds <= 7200 for seconds in timeouts(daemon))
    assert kernel_value(daemon, "tcp_timeout_established") == before, "the kernel's are others'"


LIVE = """
mode: {mode}
clusterCIDR: 10.0.0.0/8
conntrack: {{tcpEstablishedTimeout: {timeout}}}
kbeNat: {{strategy: {strategy}, rejectWith: {reject}, maxFlows: {flows}}}
"""


def test_a_file_that_changes_is_followed_without_loss(daemon: Daemon) -> None:
    values = {"mode": "iptables", "timeout": "2h", "strategy": "rr", "reject": "icmp"}
    started(daemon, LIVE.format(**values, flows=1000))
    client = daemon.cluster.client.path
    with inside(client, lambda: socket.create_connection((VIP, 80), 10)) as connection:
        connection.sendall(b"GET /info HTTP/1.1\r\nHost: a\r\n")
        changed = {"mode": "nftables", "timeout": "3h", "strategy": "wlc", "reject": "tcp-reset"}
        config = daemon.folder / "config.yaml"
        config.write_text(LIVE.format(**changed, flows=2000))
        eventually(lambda: "the configuration has changed, and is in force: " in daemon.log)
        eventually(lambda: {row["strategy"] for row in daemon.get("services")} == {"wlc"})
        # The connection of before goes on, and its answer comes by the changed rules.
        connection.sendall(b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.")
    assert serves(daemon)
    if daemon.datapath.offloads:
        assert kernel_value(daemon, "tcp_timeout_established") == 10800
    assert "restart needed for: kbeNat.maxFlows" in daemon.log
    page = daemon.cluster.node.call("curl", "-sS", "http://127.0.0.1:10249/configz")
    in_force = json.loads(page)
    conntrack = in_force["kubeproxy.config.k8s.io"]["conntrack"]
    assert conntrack["tcpEstablishedTimeout"] == "3h0m0s"
    assert in_force["kbeNat"]["limits"]["max_flows"] == 1000
    config.write_text("mode: nftables\nmod: 1")
    eventually(lambda: "the configuration stays as it was: " in daemon.log)
    assert "mod: there is no such field; did you mean mode" in daemon.log
    assert serves(daemon)
    config.write_text(LIVE.format(**changed, flows=1000))
    eventually(lambda: "the configuration is followed again" in daemon.log)
    assert daemon.log.count("the configuration stays as it was") == 1


def daemon_says(daemon: Daemon, text: str) -> bool:
    return text in daemon.log


SERVERS = """
healthzBindAddress: 0.0.0.0:{health}
metricsBindAddress: 127.0.0.1:{metrics}
iptables: {{syncPeriod: {period}}}
hostnameOverride: {node}
kbeNat: {{metricsBackends: {backends}}}
"""


def test_periods_addresses_and_metrics_follow_the_file(daemon: Daemon) -> None:
    values = {"health": 10256, "metrics": 10249, "period": "30s", "node": "", "backends": "service"}
    started(daemon, SERVERS.format(**values))
    node = daemon.cluster.node

    def page(url: str) -> str:
        try:
            return node.call("curl", "-sS", f"http://127.0.0.1:{url}")
        except PlaygroundError:
            return ""

    eventually(lambda: "kbe_nat_service_flows_total" in page("10249/metrics"))
    changed = {"health": 10257, "metrics": 10250, "period": "7s", "node": "n2", "backends": "off"}
    (daemon.folder / "config.yaml").write_text(SERVERS.format(**changed))
    eventually(lambda: page("10250/proxyMode"))
    eventually(lambda: '"healthy":true' in page("10257/healthz"))
    assert not page("10256/healthz") and not page("10249/proxyMode")
    assert "kbe_nat_service_flows_total" not in page("10250/metrics")
    in_force = json.loads(page("10250/configz"))["kubeproxy.config.k8s.io"]
    assert in_force["healthzBindAddress"] == "0.0.0.0:10257"
    assert in_force["iptables"]["syncPeriod"] == "7s"
    assert in_force["hostnameOverride"] == "n2"
    assert "metrics-bind-address=127.0.0.1:10250" in page("10250/flagz")
    assert "restart needed" not in daemon.log
    assert serves(daemon)


@OFFLOADING_DAEMONS
def test_a_config_map_that_becomes_wrong_leaves_the_last_good_one(daemon: Daemon) -> None:
    mount = daemon.folder / "mount"
    mount.mkdir()
    config = mount / "config.yaml"
    config.symlink_to("..data/config.yaml")

    def publish(version: str, text: str | None) -> None:
        """As kubelet does it."""
        (mount / version).mkdir()
        if text is not None:
            (mount / version / "config.yaml").write_text(text)
        (mount / "..data_tmp").symlink_to(version)
        (mount / "..data_tmp").rename(mount / "..data")

    def strategies() -> set[str]:
        return {row["strategy"] for row in daemon.get("services")}

    publish("..1", "kbeNat: {strategy: rr}")
    daemon.start("--config", str(config))
    eventually(lambda: serves(daemon) and strategies() == {"rr"})
    complaint, over = "the configuration stays as it was: ", "the configuration is followed again"
    for version, text, reason in (
        ("..2", "kbeNat: {strategy: sh, strategy: lc}", "the key 'strategy' is there twice"),
        ("..3", "kbeNat: {strategy: sh", "while parsing a flow mapping"),
        ("..4", None, "No such file"),
        ("..5", "kind: ConfigMap", "is not KubeProxyConfiguration"),
    ):
        publish(version, text)
        eventually(partial(daemon_says, daemon, reason))
        assert strategies() == {"rr"} and serves(daemon)
    assert daemon.log.count(complaint) == 4, "each mistake is said once"
    assert over not in daemon.log
    publish("..6", "kbeNat: {strategy: sh}")
    eventually(lambda: strategies() == {"sh"})
    eventually(lambda: over in daemon.log)
    assert serves(daemon)


@OFFLOADING_DAEMONS
def test_settings_alone_are_made_for_a_daemon_with_fewer_rights(daemon: Daemon) -> None:
    config = daemon.folder / "config.yaml"
    config.write_text(CONFIG.format(per_core=1))
    rules = kernel_rules(daemon.cluster)
    done = daemon.run("--config", str(config), "--init-only")
    assert done.returncode == 0, done.stderr
    assert kernel_value(daemon, "tcp_timeout_established") == 7200
    assert kernel_rules(daemon.cluster) == rules
    config.write_text(CONFIG.format(per_core=50_000_000))
    done = daemon.run("--config", str(config), "--init-only")
    assert done.returncode == 2 and "nf_conntrack_max = " in done.stderr
