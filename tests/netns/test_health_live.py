"""Health, pages and metrics of a daemon in a namespace, asked by curl in every state."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.daemons import NOBODY, VIP, Daemon, curl, until_pages_answer
from harness.stage import PODS, add_ipv6
from harness.waiting import eventually
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.metrics.catalog import METRICS
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.rule import DatapathKind

NODE = """apiVersion: v1
kind: Node
metadata: {name: here}
spec: {taints: [TAINTS]}
status: {addresses: [{type: InternalIP, address: 10.0.2.15}]}
"""
DELETION = "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}"
HEALTH, PAGES = "http://10.0.2.15:10256", "http://127.0.0.1:10249"
BODY = ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]


def ask(name: Namespace, url: str) -> tuple[int, str]:
    """Status and content. Raises `PlaygroundError` where nothing listens."""
    answer = name.call("curl", "-gsS", "--max-time", "20", "-w", "\n%{http_code}", url)
    content, _, status = answer.rpartition("\n")
    return int(status), content


def health(daemon: Daemon) -> tuple[int, int, bool, bool]:
    """The status of both pages, and what they say about node and daemon, as the network sees it."""
    client = daemon.cluster.client
    (status, content), (live, live_content) = (
        ask(client, f"{HEALTH}/{page}") for page in ("healthz", "livez")
    )
    body, live_body = json.loads(content), json.loads(live_content)
    assert list(body) == BODY
    assert list(live_body) == [field for field in BODY if field != "nodeEligible"]
    assert body["healthy"] == live_body["healthy"]
    return status, live, body["nodeEligible"], body["healthy"]


def sample(daemon: Daemon, name: str, **labels: str) -> float:
    """The value of one series; 0 where there is none."""
    status, text = ask(daemon.cluster.node, f"{PAGES}/metrics")
    assert status == 200
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name == name and labels.items() <= each.labels.items():
                return float(each.value)
    return 0.0


def test_health_follows_the_node(daemon: Daemon) -> None:
    daemon.write("node.yaml", NODE.replace("TAINTS", ""))
    daemon.start("--node", "here")
    eventually(lambda: health(daemon) == (200, 200, True, True))
    daemon.write("node.yaml", NODE.replace("TAINTS", DELETION))
    eventually(lambda: health(daemon) == (503, 200, False, True))
    daemon.write("node.yaml", NODE.replace("TAINTS", ""))
    eventually(lambda: health(daemon) == (200, 200, True, True))
    (daemon.folder / "objects/node.yaml").unlink()
    eventually(lambda: health(daemon) == (503, 200, False, True))
    assert VIP in curl(daemon.cluster), "what it serves has nothing to do with that"
    for page, code in (("healthz", "503"), ("livez", "200")):
        assert sample(daemon, f"kubeproxy_proxy_{page}_total", code=code) > 0
    assert sample(daemon, "kbe_nat_node_eligible") == 0


def test_health_of_a_node_without_a_node_object_is_that_of_the_daemon(daemon: Daemon) -> None:
    daemon.start()
    eventually(lambda: health(daemon) == (200, 200, True, True))


def test_f100_a_daemon_without_an_api_server_shows_what_it_waits_for(daemon: Daemon) -> None:
    daemon.start("--master", "http://127.0.0.1:9")
    until_pages_answer(daemon)
    assert health(daemon)[:2] == (200, 200), "for twice the sync period"
    eventually(lambda: sample(daemon, "rest_client_requests_total", code="<error>") >= 1)
    phases = {
        phase: sample(daemon, "kbe_nat_watch_state", resource="services", phase=phase)
        for phase in ("connecting", "listing", "in step", "stale")
    }
    assert sum(phases.values()) == 1 and not phases["in step"]
    assert sample(daemon, "kbe_nat_healthy") == 1


def test_f14_a_daemon_whose_changes_are_refused_is_stale_after_twice_the_sync_period(
    daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for command in ("ipset", "nft"):
        script = tmp_path / f"bin/{command}"
        script.write_text(
            f'#!/bin/sh\ntest -e {tmp_path}/broken && exit 3\nexec /usr/sbin/{command} "$@"\n'
        )
        script.chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text("iptables: {syncPeriod: 2s}\n")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    daemon.start("--config", str(config), environment={"PATH": path})
    eventually(lambda: health(daemon) == (200, 200, True, True))
    (tmp_path / "broken").touch()
    if daemon.datapath.offloads:
        daemon.cluster.node.call("nft", "delete", "table", "ip", "kbe-nat-translation-0")
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: health(daemon) == (503, 503, True, False))
    status, content = ask(daemon.cluster.node, f"{PAGES}/healthz")
    assert (status, content) == (200, "ok"), "the process answers"
    refused = "iptables_restore" if "iptables" in daemon.get("status")["rules"] else "nftables_sync"
    failures = f"kubeproxy_sync_proxy_rules_{refused}_failures_total"
    assert sample(daemon, failures, ip_family="IPv4") >= 1
    assert sample(daemon, "kbe_nat_rules_up_to_date") == 0
    assert sample(daemon, "kubeproxy_sync_proxy_rules_service_changes_pending") == 1
    (tmp_path / "broken").unlink()
    eventually(lambda: health(daemon) == (200, 200, True, True))
    assert sample(daemon, "kubeproxy_sync_proxy_rules_service_changes_pending") == 0


def test_every_page_answers_where_it_should(daemon: Daemon) -> None:
    add_ipv6(daemon.cluster)
    daemon.start("--mode", "nftables")
    node = daemon.cluster.node
    until_pages_answer(daemon)
    pages = {
        page: ask(node, f"{PAGES}/{page}")
        for page in ("healthz", "proxyMode", "configz", "statusz", "flagz", "metrics", "", "x")
    }
    assert pages["healthz"] == (200, "ok")
    assert pages["proxyMode"] == (200, "nftables")
    config = json.loads(pages["configz"][1])
    assert config["kubeproxy.config.k8s.io"]["mode"] == "nftables"
    assert config["kubeproxy.config.k8s.io"]["healthzBindAddress"] == "0.0.0.0:10256"
    assert config["kbeNat"]["files"]["socket"] == str(daemon.socket)
    assert "\nPaths  / /configz /flagz /healthz /metrics /proxyMode\n" in pages["statusz"][1]
    assert "\nproxy-mode=nftables\n" in pages["flagz"][1]
    assert "\nmetrics-bind-address=127.0.0.1:10249\n" in pages["flagz"][1]
    assert pages[""][0] == 200 and pages[""][1].startswith("<!doctype html>")
    assert pages["x"] == (404, "404 page not found\n")
    for url in (f"{HEALTH}/metrics", f"{HEALTH}/"):
        assert ask(node, url) == (404, "404 page not found\n")
    for host in ("10.0.2.15", "[fd00:2::15]"):
        assert ask(daemon.cluster.client, f"http://{host}:10256/livez")[0] == 200
    with pytest.raises(PlaygroundError, match="Couldn't connect"):
        ask(daemon.cluster.client, "http://10.0.2.15:10249/metrics")


def test_addresses_can_be_moved_and_switched_off(daemon: Daemon) -> None:
    daemon.start("--healthz-bind-address", "", "--metrics-bind-address", "10.0.2.15:9999")
    client = daemon.cluster.client

    def is_moved() -> bool:
        with suppress(PlaygroundError):
            return ask(client, "http://10.0.2.15:9999/proxyMode") == (200, "iptables")
        return False

    eventually(is_moved)
    with pytest.raises(PlaygroundError, match="Couldn't connect"):
        ask(client, f"{HEALTH}/healthz")


def test_a_daemon_with_a_hard_failure_does_not_start(daemon: Daemon) -> None:
    holder = daemon.cluster.node.start(("python3", "-u", "-c", TCP_HOLDER))
    assert holder.stdout is not None and holder.stdout.readline()
    ended = daemon.run("--bind-address-hard-fail")
    assert ended.returncode != 0
    assert "--metrics-bind-address: 127.0.0.1:10249: Address already in use" in ended.stderr
    daemon.start()
    eventually(lambda: "metrics at 127.0.0.1:10249: Address already in use" in daemon.log)
    assert VIP in curl(daemon.cluster)
    holder.kill()
    holder.wait()
    eventually(lambda: "metrics at 127.0.0.1:10249: answered now" in daemon.log)
    assert ask(daemon.cluster.node, f"{PAGES}/healthz") == (200, "ok")


def test_metrics_count_what_clients_do(daemon: Daemon) -> None:
    daemon.cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_acct", "1")
    daemon.write("nobody.yaml", NOBODY)
    daemon.start("--metrics-backends", "backend")
    until_pages_answer(daemon)
    for _ in range(5):
        assert VIP in curl(daemon.cluster)
    with pytest.raises(PlaygroundError):
        curl(daemon.cluster, "172.30.0.9:81")

    def counts(name: str, service: str = "simpleservice", **labels: str) -> float:
        return sample(
            daemon, name, namespace="default", service=service, ip_family="IPv4", **labels
        )

    eventually(lambda: counts("kbe_nat_service_flows_total") == 5)
    backend = f"{PODS[Family.IPV4][0]}:9876"
    assert sample(daemon, "kbe_nat_packets_total", action="reject") >= (
        1 if daemon.datapath is DatapathKind.EVERY_PACKET else 0
    )
    text = ask(daemon.cluster.node, f"{PAGES}/metrics")[1]
    assert re.search(rf'kbe_nat_backend_flows_total{{.*backend="{backend}"}} [0-9]', text)
    names = {re.match(r"\w+", line)[0] for line in text.splitlines() if line[:1] not in ("#", "")}  # type: ignore[index]
    stems = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    assert {stem for stem in stems if stem.startswith("k")} <= set(METRICS)
    if daemon.datapath is DatapathKind.EVERY_PACKET:
        assert counts("kbe_nat_service_bytes_total", direction="out") > 1000
        assert counts("kbe_nat_service_refused_packets_total", service="nobody") >= 1


TCP_HOLDER = """
import socket, time
listener = socket.create_server(("127.0.0.1", 10249))
print("ready")
time.sleep(600)
"""
