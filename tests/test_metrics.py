"""What /metrics serves: kube-proxy's names against its recording, ours against their catalog, and
the dashboard, the alerts and the page of metrics against both.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import Metric as Family_
from prometheus_client.parser import text_string_to_metric_families

from harness.full_engine import STATUS, controller_with, verbs_of
from harness.traffic import ACK, SYN, TCP, addresses, ip, ports, tcp
from kbe_nat._native import CONNECT_BOUNDS, Engine, Snat
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.node_metrics import NodeMetrics, Observed
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.rows import StatusRow, WatchRow
from kbe_nat.daemon.settings import MetricsBackends
from kbe_nat.drivers.queue import Batch
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.metrics import catalog
from kbe_nat.metrics.catalog import ABSENT, METRICS
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.metrics.sync import SyncMetrics
from kbe_nat.metrics.traffic import escape, traffic_lines
from kbe_nat.metrics.values import Histogram, Values, bound_text
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.server.health_page import HealthPages
from kbe_nat.sources.manifests.manifests import Manifests
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.watch_state import WatchState

ROOT = Path(__file__).parent.parent
RECORDING = ROOT / "tests/cluster/recordings/kube-proxy/metrics.txt"
CLIENT, ADDRESS = "10.0.2.100", "10.96.0.1"
NAME = re.compile(r"\b(?:kbe_nat|kubeproxy|process|rest_client)_\w+")


class Once:
    """A source with one update."""

    def __init__(self, *updates: SourceUpdate) -> None:
        self.updates = list(updates)

    def read(self) -> SourceUpdate | None:
        return self.updates.pop(0) if self.updates else None

    def wait(self, seconds: float) -> bool:
        return False

    def descriptors(self) -> Sequence[int]:
        return ()

    def files(self) -> tuple[()]:
        return ()

    def watches(self) -> Sequence[WatchState]:
        return ()

    def close(self) -> None:
        pass


def metrics_of(
    controller: Controller,
    backends: MetricsBackends = MetricsBackends.SERVICE,
    sync: SyncMetrics | None = None,
    *updates: SourceUpdate,
    status: StatusRow = STATUS,
    requests: RestMetrics | None = None,
    loops: Sequence[LoopThread] = (),
) -> NodeMetrics:
    sync = sync or SyncMetrics()
    reconciler = Reconciler(Once(*updates), controller, HealthCheckPorts(), metrics=sync)
    for _ in updates:
        reconciler.follow()
    liveness = Liveness(lambda: reconciler.is_behind, lambda: reconciler.synced)
    health = HealthPages(liveness.report, lambda: True)
    health.respond("/healthz")
    health.respond("/livez")
    observed = Observed(
        controller=controller,
        reconciler=reconciler,
        liveness=liveness,
        health=health,
        sync=sync,
        requests=requests or RestMetrics(),
        status=lambda: status,
        loops=loops,
        truncated=lambda: 0,
        max_flows=1000,
    )
    return NodeMetrics(observed, lambda: backends)


def families(text: bytes) -> dict[str, Family_]:
    """By the name that the catalog has."""
    parsed: dict[str, Family_] = {}
    for family in text_string_to_metric_families(text.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name not in parsed, "the lines of a family stand together"
        parsed[name] = family
    return parsed


def values(family: Family_) -> dict[tuple[str, ...], float]:
    """By the values of the labels, in the catalog's order."""
    metric = METRICS[f"{family.name}_total" if family.type == "counter" else family.name]
    return {
        tuple(sample.labels[label] for label in metric.labels): sample.value
        for sample in family.samples
    }


RECORDED = families(RECORDING.read_bytes())


@pytest.mark.parametrize(
    "name", [name for name in RECORDED if not name.startswith("process_") and name not in ABSENT]
)
def test_each_name_of_kube_proxys_has_its_type_labels_and_buckets(name: str) -> None:
    metric, recorded = METRICS[name], RECORDED[name]
    assert metric.kind == recorded.type
    bounds = {sample.labels.get("le"): None for sample in recorded.samples}
    labels = {label for sample in recorded.samples for label in sample.labels}
    assert labels - {"le"} == set(metric.labels)
    if metric.kind == "histogram":
        histogram = Histogram(metric)
        histogram.observe(0.1, *("any" for _ in metric.labels))
        served = [labels["le"] for _, labels, _ in histogram.samples() if "le" in labels]
        assert set(served) == set(bounds) - {None}


def test_names_that_are_absent_are_kube_proxys_and_not_ours() -> None:
    assert set(ABSENT) <= set(RECORDED)
    assert not set(ABSENT) & set(METRICS)


def test_the_process_has_the_metrics_that_all_clients_share() -> None:
    served = families(metrics_of(controller_with(1)).exposition()[1])
    ours = {name for name in served if name.startswith("process_")}
    recorded = {name for name in RECORDED if name.startswith("process_")}
    # The network's bytes are Go's addition.
    assert recorded - ours <= {
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "process_virtual_memory_max_bytes",
    }


@pytest.mark.parametrize("backends", list(MetricsBackends))
def test_all_that_is_served_stands_in_the_catalog(backends: MetricsBackends) -> None:
    controller = controller_with(3)
    update = SourceUpdate(controller.snapshot)
    media_type, text = metrics_of(controller, backends, None, update).exposition()
    assert media_type.startswith("text/plain; version=0.0.4")
    served = families(text)
    for name, family in served.items():
        if name.startswith("process_"):
            continue
        metric = METRICS[name]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    series = [line.rpartition(" ")[0] for line in lines]
    assert len(series) == len(set(series))
    hidden = {MetricsBackends.OFF: ("service_", "backend_"), MetricsBackends.SERVICE: ("backend_",)}
    prefixes = tuple(f"kbe_nat_{prefix}" for prefix in hidden.get(backends, ()))
    absent = {name for name in METRICS if prefixes and name.startswith(prefixes)}
    absent -= {catalog.SERVICE_PORTS.name}
    # This datapath has no cache and no rules of its own, and rules are of one kind.
    absent.add(catalog.INVALID_DROPPED.name)
    absent |= {each.name for each in (catalog.CACHE_FLOWS, catalog.CACHE_DEVICES)}
    absent |= {catalog.CACHE_EVENTS.name, catalog.IPTABLES_FAILURES.name}
    assert set(METRICS) - set(served) == absent


def test_traffic_is_that_of_the_engine() -> None:
    controller = controller_with(3)
    served = families(metrics_of(controller, MetricsBackends.BACKEND).exposition()[1])
    port = ("default", "web", "", "IPv4")
    backend = (*port, "10.0.0.1:9876")
    for kind, labels in (("service", port), ("backend", backend)):
        assert values(served[f"kbe_nat_{kind}_flows_total"]) == {labels: 3}
        assert values(served[f"kbe_nat_{kind}_active_flows"]) == {labels: 3}
        packets = values(served[f"kbe_nat_{kind}_packets_total"])
        assert packets == {(*labels, "in"): 3, (*labels, "out"): 0}
        assert values(served[f"kbe_nat_{kind}_bytes_total"])[*labels, "in"] > 3 * 28
    assert values(served["kbe_nat_flows"]) == {(): 3}
    assert values(served["kbe_nat_flows_limit"]) == {(): 2000}
    assert values(served["kbe_nat_packets_total"])[("translate",)] == 3
    assert values(served["kbe_nat_packet_causes_total"])[("new",)] == 3


def connect(engine: Engine, sport: int, seconds: float) -> None:
    """A handshake of TCP with `ADDRESS`, whose backend answers so late."""
    now = time.monotonic_ns()
    sent = engine.process(ip(CLIENT, ADDRESS, TCP, tcp(sport, 80, SYN, 100, 0)), now).packet
    assert sent is not None
    segment = tcp(ports(sent)[1], sport, SYN | ACK, 500, 101)
    answer = ip(addresses(sent)[1], CLIENT, TCP, segment)
    assert engine.process(answer, now + int(seconds * 1e9)).action == "translate"


def controller_with_connects(*seconds: float, **more: Any) -> Controller:
    """One whose Service of TCP has connections that took so long."""
    controller = controller_with(0, **more)
    service = service_of("web", ADDRESS)
    part = EndpointSlice(
        "web-1", Family.IPV4, (SlicePort("", "tcp", 9876),), (Endpoint("10.0.0.1"),)
    )
    controller.apply(Snapshot(2, (service,), {service.key: (part,)}), {service.key})
    for number, each in enumerate(seconds):
        connect(controller.engine, 1000 + number, each)
    return controller


def test_connect_times_are_a_histogram_of_the_service_and_a_mean_of_the_backend() -> None:
    controller = controller_with_connects(0.06, 0.07, 1.5, 7.0)
    served = families(metrics_of(controller, MetricsBackends.BACKEND).exposition()[1])
    port = {"namespace": "default", "service": "web", "port": "", "ip_family": "IPv4"}
    lines = served["kbe_nat_service_connect_duration_seconds"].samples
    assert all(line.labels.items() >= port.items() for line in lines)
    buckets = {line.labels["le"]: line.value for line in lines if "le" in line.labels}
    assert list(buckets) == [*map(bound_text, CONNECT_BOUNDS), "+Inf"]
    assert [buckets[bound] for bound in ("0.05", "0.1", "1", "3", "+Inf")] == [0, 2, 2, 3, 4]
    totals = {line.name.rpartition("_")[2]: line.value for line in lines if "le" not in line.labels}
    assert totals["count"] == 4 and totals["sum"] == pytest.approx(8.63, abs=1e-4)
    backend = served["kbe_nat_backend_connect_duration_seconds"].samples
    assert {line.labels["backend"] for line in backend} == {"10.0.0.1:9876"}
    assert {line.name.rpartition("_")[2]: line.value for line in backend} == totals


def test_service_ports_without_connect_times_have_no_series_of_them() -> None:
    served = families(metrics_of(controller_with(3), MetricsBackends.BACKEND).exposition()[1])
    assert served["kbe_nat_service_connect_duration_seconds"].samples == []
    assert served["kbe_nat_backend_connect_duration_seconds"].samples == []


def test_connect_times_stand_in_the_rows_of_services_and_endpoints() -> None:
    verbs = verbs_of(controller_with_connects(0.06, 0.07, 1.5, 7.0))
    [[service]] = verbs({"verb": "services"})
    [[endpoint]] = verbs({"verb": "endpoints"})
    assert service.connect == endpoint.connect
    assert service.connect.count == 4
    assert (service.connect.p50, service.connect.p99) == (0.1, 3.0)
    [[idle]] = verbs_of(controller_with(3))({"verb": "services"})
    assert idle.connect is None


def test_batches_are_a_histogram_of_each_loop() -> None:
    class Batches:
        def __init__(self) -> None:
            self.sizes = [1, 3, 4, 300]

        def receive(self) -> Batch | None:
            if not self.sizes:
                return None
            batch = Batch(1)
            for _ in range(self.sizes.pop()):
                batch.append(b"x")
            return batch

        def set_verdicts(self, *_: object) -> None:
            pass

    controller = controller_with(1)
    thread = LoopThread(controller.engine, Batches())
    thread.loop.run()
    metrics = metrics_of(controller, loops=[thread])
    lines = families(metrics.exposition()[1])["kbe_nat_loop_batch_packets"].samples
    assert {line.labels["loop"] for line in lines} == {"0"}
    buckets = {line.labels["le"]: line.value for line in lines if "le" in line.labels}
    assert [buckets[size] for size in ("1", "2", "4", "256", "+Inf")] == [1, 1, 3, 3, 4]
    assert [line.value for line in lines[-2:]] == [308, 4]


def test_port_leases_are_shown_with_their_limit() -> None:
    snat = Snat(["10.9.9.9"], ports=(50_000, 50_099))
    controller = controller_with(3, snat=snat, options=Options(masquerade_all=True))
    served = families(metrics_of(controller).exposition()[1])
    leases = [values(served[f"kbe_nat_port_leases{end}"])[()] for end in ("", "_most", "_limit")]
    assert leases == [3, 3, 100]
    [stats] = verbs_of(controller)({"verb": "stats"})
    assert [stats.leased_ports, stats.most_leased_ports, stats.leasable_ports] == leases


def test_watches_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1060.0)
    rows = [
        WatchRow("services", "in step", 1000.0, "", "77", 15, 1, 4, 2, 0),
        WatchRow("endpointslices", "stale", 1050.0, "no answer", "70", 9, 1, 3, 5, 1),
    ]
    status = msgspec.structs.replace(STATUS, watches=rows)
    served = families(metrics_of(controller_with(1), status=status).exposition()[1])
    states = values(served["kbe_nat_watch_state"])
    assert states["services", "in step"] == states["endpointslices", "stale"] == 1
    assert states["services", "stale"] == states["endpointslices", "in step"] == 0
    assert values(served["kbe_nat_watch_stale_seconds"]) == {
        ("services",): 0,
        ("endpointslices",): 10,
    }
    assert values(served["kbe_nat_watch_objects"])[("services",)] == 15
    for name, value in (("lists", 1), ("events", 3), ("failures", 5), ("withheld", 1)):
        assert values(served[f"kbe_nat_watch_{name}_total"])[("endpointslices",)] == value


def test_requests_are_counted_by_status_and_watches_not_timed() -> None:
    requests = RestMetrics()
    requests.count("api:6443", "GET", 200, 0.03)
    requests.count("api:6443", "GET", 200, None)
    requests.count("api:6443", "GET", None, 2.0)
    served = families(metrics_of(controller_with(1), requests=requests).exposition()[1])
    counts = values(served["rest_client_requests_total"])
    assert counts == {("200", "api:6443", "GET"): 2, ("<error>", "api:6443", "GET"): 1}
    buckets = {
        sample.labels.get("le"): sample.value
        for sample in served["rest_client_request_duration_seconds"].samples
    }
    assert (buckets["0.025"], buckets["0.1"], buckets["+Inf"]) == (0, 1, 2)


def test_refusals_are_counted_by_service_port_and_cause() -> None:
    controller = controller_with(1)
    controller.apply(Snapshot(2, controller.snapshot.services), {("default", "web")})
    packet = bytearray.fromhex("45000020000000004011000001020304ac1ee4ff00071234000c0000") + b"1234"
    packet[22:24] = (80).to_bytes(2)
    packet[4:6] = b"\0\1"
    controller.engine.process(packet, 1)
    served = families(metrics_of(controller).exposition()[1])
    labels = ("default", "web", "", "IPv4", "no-endpoints")
    assert values(served["kbe_nat_service_refused_packets_total"]) == {labels: 1}


def test_packets_that_the_kernel_does_not_count_have_no_series() -> None:
    stats = controller_with(3).engine.stats()
    text = "".join(traffic_lines(stats.services, is_counted=False, has_backends=True))
    assert "flows_total" in text and "packets_total{" not in text.replace("refused_packets", "")
    assert "bytes" not in text


def test_labels_are_escaped() -> None:
    assert escape("plain") == "plain"
    assert escape('a"b\\c\nd') == 'a\\"b\\\\c\\nd'


def part_of(name: str, *addresses: str, triggered: float | None = None) -> EndpointSlice:
    endpoints = tuple(map(Endpoint, addresses))
    return EndpointSlice(name, Family.IPV4, (SlicePort("", "tcp", 80),), endpoints, triggered)


def service_of(name: str, address: str) -> Service:
    return Service("default", name, (address,), (ServicePort("", "tcp", 80),))


def read(metrics: Values | Histogram, name: str = "") -> dict[str, float]:
    return {
        labels.get("ip_family", "") + labels.get("le", ""): value
        for line, labels, value in metrics.samples()
        if line.endswith(name)
    }


def by_name(sync: SyncMetrics, name: str, ending: str = "") -> dict[str, float]:
    [found] = [each for each in sync.values() if each.metric.name == f"kubeproxy_{name}"]
    return read(found, ending)


def test_changes_are_counted_on_their_way() -> None:
    now = 1000.0
    sync = SyncMetrics(clock=lambda: now)
    web, dns = service_of("web", "10.96.0.1"), service_of("dns", "10.96.0.2")
    keys = web.key, dns.key
    old = part_of("web-1", "10.0.0.1", triggered=900.0)
    first = Snapshot(1, (web, dns), {keys[0]: (old,), keys[1]: (part_of("dns-1", "10.0.0.9"),)})
    sync.queue(first, None)
    pending = "sync_proxy_rules_endpoint_changes_pending"
    assert by_name(sync, pending) == {"": 2}
    sync.fail()
    assert by_name(sync, "sync_proxy_rules_nftables_sync_failures_total")["IPv6"] == 1
    sync.queue(first, None)
    assert by_name(sync, pending) == {"": 2}, "the same state that is tried again is no change"
    now = 1003.0
    sync.complete(0.003, is_full=True)
    assert by_name(sync, pending) == {"": 0}
    assert by_name(sync, "sync_proxy_rules_service_changes_total") == {"": 2}
    assert by_name(sync, "sync_proxy_rules_last_timestamp_seconds")["IPv4"] == 1003
    counts = by_name(sync, "sync_full_proxy_rules_duration_seconds", "_bucket")
    assert (counts["IPv40.002"], counts["IPv40.004"], counts["IPv6+Inf"]) == (0, 1, 1)
    assert by_name(sync, "network_programming_duration_seconds") == {}, "it was there before us"

    new = part_of("web-1", "10.0.0.2", triggered=1003.5)
    second = Snapshot(2, (web, dns), {**first.slices, keys[0]: (new,)})
    now = 1004.0
    sync.queue(second, {keys[0]})
    sync.complete(0.1, is_full=False)
    assert by_name(sync, "sync_proxy_rules_endpoint_changes_total") == {"": 3}
    assert by_name(sync, "sync_proxy_rules_service_changes_total") == {"": 2}
    counts = by_name(sync, "network_programming_duration_seconds", "_bucket")
    assert (counts["IPv40.25"], counts["IPv40.5"]) == (0, 1)
    assert by_name(sync, "sync_partial_proxy_rules_duration_seconds", "_count")["IPv4"] == 1
    assert by_name(sync, "sync_proxy_rules_duration_seconds", "_count")["IPv4"] == 2

    other = service_of("web", "10.96.0.3")
    sync.queue(Snapshot(3, (other, dns), second.slices), {keys[0]})
    assert by_name(sync, "sync_proxy_rules_service_changes_total") == {"": 3}
    assert by_name(sync, "sync_proxy_rules_endpoint_changes_total") == {"": 3}
    sync.queue(Snapshot(4, (dns,), {keys[1]: second.slices[keys[1]]}), {keys[0]})
    assert by_name(sync, "sync_proxy_rules_service_changes_total") == {"": 4}
    assert by_name(sync, "sync_proxy_rules_endpoint_changes_total") == {"": 4}


SLICE = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {{kubernetes.io/service-name: web}}
  annotations: {{endpoints.kubernetes.io/last-change-trigger-time: {time}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.1]}}]
ports: [{{port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('"2026-11-28T09:06:23Z"', 1795856783.0),
        ('"2026-11-28T09:06:23.25Z"', 1795856783.25),
        ('"2026-11-28T10:06:23+01:00"', 1795856783.0),
        ('"yesterday"', None),
        ('""', None),
        ('"9999999-01-01T00:00:00Z"', None),
    ],
)
def test_a_slice_says_when_its_pods_changed(
    tmp_path: Path, text: str, seconds: float | None
) -> None:
    (tmp_path / "a.yaml").write_text(SLICE.format(time=text))
    update = Manifests((str(tmp_path),)).read()
    assert update is not None and not update.errors
    [part] = update.snapshot.slices["default", "web"]
    assert part.triggered == seconds


def test_a_refused_change_is_counted_once_and_completed_by_a_repair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller, sync = controller_with(1), SyncMetrics()
    service = service_of("web", "10.96.0.1")
    update = SourceUpdate(Snapshot(5, (service,)))
    reconciler = Reconciler(Once(update), controller, HealthCheckPorts(), metrics=sync)
    before = reconciler.synced

    def refuse() -> None:
        raise RulesError("no")

    with monkeypatch.context() as patch:
        patch.setattr(controller.datapath, "prepare", refuse)
        reconciler.follow()
        assert reconciler.is_behind and reconciler.synced == before
        with pytest.raises(RulesError):
            reconciler.repair()
    assert by_name(sync, "sync_proxy_rules_nftables_sync_failures_total")["IPv4"] == 1
    assert by_name(sync, "sync_proxy_rules_service_changes_pending") == {"": 1}
    reconciler.repair()
    assert by_name(sync, "sync_proxy_rules_service_changes_pending") == {"": 0}
    assert reconciler.synced > before and not reconciler.is_behind


@pytest.mark.parametrize(("policy", "count"), [("internal", 1), ("external", 0)])
def test_service_ports_without_endpoints_here_are_counted(policy: str, count: int) -> None:
    controller = controller_with(1)
    [service] = controller.snapshot.services
    local = Service(*service.key, service.cluster_ips, service.ports, is_internal_local=True)
    controller.apply(Snapshot(2, (local,), controller.snapshot.slices))
    served = families(metrics_of(controller).exposition()[1])
    counts = values(served["kubeproxy_sync_proxy_rules_no_local_endpoints_total"])
    assert counts["IPv4", policy] == count
    assert counts["IPv6", policy] == 0


def expressions() -> Iterator[Any]:
    """Every expression of the dashboard and the alerts."""
    alerts = yaml.safe_load((ROOT / "packaging/prometheus/alerts.yaml").read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])
    dashboard = json.loads((ROOT / "packaging/grafana/kbe-nat.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["definition"], id=variable["name"])


def metric_of(name: str) -> catalog.Metric:
    """That of a series' name."""
    if name in METRICS:
        return METRICS[name]
    stem = re.sub("_(bucket|sum|count)$", "", name)
    kinds = ("histogram",) if name.endswith("_bucket") else ("histogram", "summary")
    assert METRICS[stem].kind in kinds, name
    return METRICS[stem]


@pytest.mark.parametrize("expression", list(expressions()))
def test_dashboard_and_alerts_name_what_is_served(expression: str) -> None:
    names = NAME.findall(expression)
    assert names
    ours = [metric_of(name) for name in names if not name.startswith("process_")]
    assert {name for name in names if name.startswith("process_")} <= set(RECORDED)
    known = {label for metric in ours for label in metric.labels} | {"instance", "job", "le"}
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        used |= {label.strip() for label in group.split(",")}
    assert used <= known
    for metric in ours:
        if metric.kind == "counter":
            ranges = re.findall(rf"(\w+)\({metric.name}(?:{{[^}}]*}})?\[", expression)
            is_variable = expression.startswith("label_values")
            assert is_variable or (set(ranges) <= {"rate", "increase"} and ranges), metric.name


def test_each_alert_is_complete_and_each_panel_has_its_place() -> None:
    alerts = yaml.safe_load((ROOT / "packaging/prometheus/alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    dashboard = json.loads((ROOT / "packaging/grafana/kbe-nat.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)


def test_the_page_of_metrics_is_up_to_date() -> None:
    subprocess.run([sys.executable, str(ROOT / "tools/metrics_page.py"), "--check"], check=True)
