"""Every metric of ours, with its meaning: /metrics, docs/metrics.md, the dashboard and the alerts
are held against this list.

Names that begin with `kubeproxy_` are kube-proxy's own, with its labels and buckets, where they
mean the same here. Metrics of the process are `prometheus_client`'s.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from kbe_nat._native import BATCH_SIZES, CONNECT_BOUNDS

Labels: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    kind: str
    """counter, gauge, histogram, or summary without quantiles, as Prometheus has them."""
    meaning: str
    """The help text."""
    labels: Labels = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without the infinite one."""


FAMILY: Final = ("ip_family",)
SYNC_BUCKETS: Final = tuple(round(0.001 * 2**power, 3) for power in range(15))
PROGRAMMING_BUCKETS: Final = (
    *(0.0, 0.25, 0.5),
    *map(float, range(1, 60)),
    *map(float, range(60, 120, 5)),
    *map(float, range(120, 301, 30)),
)
SERVICE: Final = ("namespace", "service", "port", "ip_family")
BACKEND: Final = (*SERVICE, "backend")
DIRECTION: Final = "direction"

SYNC_DURATION: Final = Metric(
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "histogram",
    "Time from a change of the objects until engine and kernel had it; one step serves both"
    " families.",
    FAMILY,
    SYNC_BUCKETS,
)
FULL_SYNC_DURATION: Final = Metric(
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "histogram",
    "Time of steps that may touch every Service, such as the first one.",
    FAMILY,
    SYNC_BUCKETS,
)
PARTIAL_SYNC_DURATION: Final = Metric(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "histogram",
    "Time of steps that touch some Services alone.",
    FAMILY,
    SYNC_BUCKETS,
)
LAST_SYNC: Final = Metric(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "gauge",
    "When the kernel took over a change last.",
    FAMILY,
)
LAST_QUEUED: Final = Metric(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "gauge",
    "When a change of the objects was seen last.",
    FAMILY,
)
SERVICE_CHANGES: Final = Metric(
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "counter",
    "Services that came, changed or went.",
)
SERVICE_CHANGES_PENDING: Final = Metric(
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "gauge",
    "Changes of Services that the kernel does not have yet.",
)
ENDPOINT_CHANGES: Final = Metric(
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "counter",
    "EndpointSlices that came, changed or went.",
)
ENDPOINT_CHANGES_PENDING: Final = Metric(
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "gauge",
    "Changes of EndpointSlices that the kernel does not have yet.",
)
NFTABLES_FAILURES: Final = Metric(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
    "counter",
    "Changes that the kernel refused, where rules are nft's.",
    FAMILY,
)
IPTABLES_FAILURES: Final = Metric(
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
    "counter",
    "Changes that the kernel refused, where rules are iptables'.",
    FAMILY,
)
PROGRAMMING_DURATION: Final = Metric(
    "kubeproxy_network_programming_duration_seconds",
    "histogram",
    "Time from a change of Pods, as the EndpointSlice's last-change-trigger-time says it, until"
    " engine and kernel had it.",
    FAMILY,
    PROGRAMMING_BUCKETS,
)
NO_LOCAL_ENDPOINTS: Final = Metric(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "gauge",
    "Service ports with endpoints and a Local traffic policy that have none on this node.",
    ("ip_family", "traffic_policy"),
)
HEALTHZ_ANSWERS: Final = Metric(
    "kubeproxy_proxy_healthz_total", "counter", "Answers of /healthz.", ("code",)
)
LIVEZ_ANSWERS: Final = Metric(
    "kubeproxy_proxy_livez_total", "counter", "Answers of /livez.", ("code",)
)

REST_REQUESTS: Final = Metric(
    "rest_client_requests_total",
    "counter",
    "Requests to the API server by status; `<error>` where none came.",
    ("code", "host", "method"),
)
REST_DURATION: Final = Metric(
    "rest_client_request_duration_seconds",
    "histogram",
    "Time until the API server began to answer, without watches.",
    ("host", "verb"),
    (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
)

BUILD: Final = Metric(
    "kbe_nat_build_info", "gauge", "1, with what runs here.", ("version", "datapath", "driver")
)
HEALTHY: Final = Metric("kbe_nat_healthy", "gauge", "Whether /livez answers 200.")
ELIGIBLE: Final = Metric(
    "kbe_nat_node_eligible", "gauge", "Whether load balancers should choose this node."
)
RULES_CURRENT: Final = Metric(
    "kbe_nat_rules_up_to_date", "gauge", "Whether the kernel has what the newest objects want."
)
GENERATION: Final = Metric(
    "kbe_nat_objects_generation", "gauge", "Number of the newest objects that were planned."
)
OBJECTS_AGE: Final = Metric(
    "kbe_nat_objects_age_seconds", "gauge", "Time since the kernel took over a change last."
)
OBJECT_ERRORS: Final = Metric(
    "kbe_nat_object_errors", "gauge", "Files and objects that are refused now."
)
LOST_FRONTENDS: Final = Metric(
    "kbe_nat_lost_frontends",
    "gauge",
    "Addresses and node ports that Services ask for and other Services have.",
)
WATCH_STATE: Final = Metric(
    "kbe_nat_watch_state",
    "gauge",
    "1 for the phase in which the watch of a resource is: connecting, listing, in step, stale.",
    ("resource", "phase"),
)
WATCH_STALE: Final = Metric(
    "kbe_nat_watch_stale_seconds",
    "gauge",
    "Time since a watch was in step last, or since it began; 0 when it is.",
    ("resource",),
)
WATCH_OBJECTS: Final = Metric(
    "kbe_nat_watch_objects", "gauge", "Objects that the API server has told.", ("resource",)
)
WATCH_LISTS: Final = Metric(
    "kbe_nat_watch_lists_total", "counter", "Lists that were applied.", ("resource",)
)
WATCH_EVENTS: Final = Metric(
    "kbe_nat_watch_events_total", "counter", "Changes that watches told.", ("resource",)
)
WATCH_FAILURES: Final = Metric(
    "kbe_nat_watch_failures_total",
    "counter",
    "Requests to the API server that failed or were refused.",
    ("resource",),
)
WATCH_WITHHELD: Final = Metric(
    "kbe_nat_watch_withheld_total",
    "counter",
    "Answers that were not applied: empty, partial, malformed or older ones.",
    ("resource",),
)
CLUSTER_EVENTS: Final = Metric(
    "kbe_nat_cluster_events_total",
    "counter",
    "Events for the cluster's operators: posted, refused, failed, limited or overflowed.",
    ("outcome",),
)
SERVICE_PORTS: Final = Metric("kbe_nat_service_ports", "gauge", "Service ports served.", FAMILY)
ENDPOINTS: Final = Metric(
    "kbe_nat_endpoints", "gauge", "Endpoints that may serve, once for each service port.", FAMILY
)
DRAINS: Final = Metric("kbe_nat_drains", "gauge", "Backends that operators drain.")
PACKETS: Final = Metric(
    "kbe_nat_packets_total", "counter", "Packets by what was done with them.", ("action",)
)
CAUSES: Final = Metric(
    "kbe_nat_packet_causes_total",
    "counter",
    "Packets by why that was done, among them all refusals and drops.",
    ("cause",),
)
FLOWS: Final = Metric("kbe_nat_flows", "gauge", "Connections in the engine's tables.")
FLOWS_ASSURED: Final = Metric(
    "kbe_nat_flows_assured", "gauge", "Connections that stay when a table is full."
)
FLOWS_LIMIT: Final = Metric(
    "kbe_nat_flows_limit", "gauge", "Connections that the tables of both families have room for."
)
FLOWS_EXPIRED: Final = Metric(
    "kbe_nat_flows_expired_total", "counter", "Connections whose time was over."
)
FLOWS_EVICTED: Final = Metric(
    "kbe_nat_flows_evicted_total", "counter", "Connections that made room for others."
)
AFFINITIES: Final = Metric(
    "kbe_nat_affinities", "gauge", "Clients whose backend is remembered for affinity."
)
FRAGMENTS: Final = Metric(
    "kbe_nat_fragments_held", "gauge", "Fragments that wait for the first one of their datagram."
)
PORT_LEASES: Final = Metric(
    "kbe_nat_port_leases",
    "gauge",
    "Source ports that the engine has leased to flows whose own would clash, of all backends; ports"
    " with which the kernel masquerades are its own.",
)
PORT_LEASES_MOST: Final = Metric(
    "kbe_nat_port_leases_most",
    "gauge",
    "Source ports that are leased towards one backend, from one address: the highest of these.",
)
PORT_LEASES_LIMIT: Final = Metric(
    "kbe_nat_port_leases_limit",
    "gauge",
    "Source ports that can be leased towards one backend, from one address.",
)
QUEUE_WAITING: Final = Metric(
    "kbe_nat_queue_waiting", "gauge", "Packets that wait in the kernel's queue.", ("queue",)
)
QUEUE_PACKETS: Final = Metric(
    "kbe_nat_queue_packets_total", "counter", "Packets that the kernel has queued.", ("queue",)
)
QUEUE_DROPS: Final = Metric(
    "kbe_nat_queue_dropped_total",
    "counter",
    "Packets that the kernel dropped: its queue or the socket's buffer was full.",
    ("queue", "reason"),
)
QUEUE_TRUNCATED: Final = Metric(
    "kbe_nat_queue_truncated_total", "counter", "Packets that queues delivered in part."
)
LOOP_BATCHES: Final = Metric(
    "kbe_nat_loop_batch_packets",
    "histogram",
    "Packets that a loop took from its queue, and gave verdicts, at a time.",
    ("loop",),
    tuple(map(float, BATCH_SIZES)),
)
LOOP_PANICS: Final = Metric(
    "kbe_nat_loop_panics_total", "counter", "Batches that met a defect of the engine.", ("loop",)
)
DATAPATH_EVENTS: Final = Metric(
    "kbe_nat_datapath_events_total",
    "counter",
    "What the kernel does (first-packet, cached): its events and lost ones, flows that were ended,"
    " and packets without a tracked flow or a known backend.",
    ("event",),
)
CACHE_FLOWS: Final = Metric(
    "kbe_nat_cache_flows",
    "gauge",
    "Flows that the cache carries or may soon (cached).",
)
CACHE_DEVICES: Final = Metric(
    "kbe_nat_cache_devices", "gauge", "Devices that the cache stands on (cached)."
)
CACHE_EVENTS: Final = Metric(
    "kbe_nat_cache_events_total",
    "counter",
    "What the cache counts (cached): packets that pass the kernel's stack by (hits), and others by"
    " why they do not; entries made, renewed and ended; flows proposed; times when all entries"
    " became void (generations); resets and volumes of which a slow daemon was not told (untold).",
    ("event",),
)
INVALID_DROPPED: Final = Metric(
    "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    "counter",
    "Packets that belong to no connection, and were dropped: to a Service, or instead of being"
    " forwarded (first-packet, cached; in every mode).",
)
BACKENDS_WAITING: Final = Metric(
    "kbe_nat_backends_waiting",
    "gauge",
    "Backends for which no mark is free (first-packet, cached).",
)

SERVICE_FLOWS: Final = Metric(
    "kbe_nat_service_flows_total", "counter", "Connections of a service port so far.", SERVICE
)
SERVICE_ACTIVE: Final = Metric(
    "kbe_nat_service_active_flows",
    "gauge",
    "Connections of a service port now, without those that are over (TIME_WAIT, CLOSE).",
    SERVICE,
)
SERVICE_PACKETS: Final = Metric(
    "kbe_nat_service_packets_total",
    "counter",
    "Packets of a service port, in to backends and out from them; absent where the kernel does not"
    " count.",
    (*SERVICE, DIRECTION),
)
SERVICE_BYTES: Final = Metric(
    "kbe_nat_service_bytes_total",
    "counter",
    "Bytes of a service port's packets.",
    (*SERVICE, DIRECTION),
)
SERVICE_REFUSED: Final = Metric(
    "kbe_nat_service_refused_packets_total",
    "counter",
    "Packets to a service port that were rejected or dropped, by cause.",
    (*SERVICE, "cause"),
)
SERVICE_CONNECTS: Final = Metric(
    "kbe_nat_service_connect_duration_seconds",
    "histogram",
    "Time from a client's first SYN to its backend's SYN-ACK, for TCP; absent where none was"
    " measured.",
    SERVICE,
    CONNECT_BOUNDS,
)
BACKEND_FLOWS: Final = Metric(
    "kbe_nat_backend_flows_total", "counter", "Connections of a backend so far.", BACKEND
)
BACKEND_ACTIVE: Final = Metric(
    "kbe_nat_backend_active_flows",
    "gauge",
    "Connections of a backend now, without those that are over.",
    BACKEND,
)
BACKEND_PACKETS: Final = Metric(
    "kbe_nat_backend_packets_total",
    "counter",
    "Packets of a backend, in to it and out from it; absent where the kernel does not count.",
    (*BACKEND, DIRECTION),
)
BACKEND_BYTES: Final = Metric(
    "kbe_nat_backend_bytes_total", "counter", "Bytes of a backend's packets.", (*BACKEND, DIRECTION)
)

BACKEND_CONNECTS: Final = Metric(
    "kbe_nat_backend_connect_duration_seconds",
    "summary",
    "The same by backend, without buckets: sum by count is the mean.",
    BACKEND,
)

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)
}
"""All of them by name, in the order of this file."""

ABSENT: Final = {
    "kubeproxy_iptables_localhost_nodeports_accepted_packets_total": "no rule counts them",
    "kubeproxy_sync_proxy_rules_iptables_last": "the rules do not grow with Services",
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total": "there is no partial"
    " restore",
    "kubeproxy_sync_proxy_rules_iptables_total": "the rules do not grow with Services",
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total": "stale elements go in the"
    " transaction that brings new ones",
    "rest_client_exec_plugin_certificate_rotation_age": "Go's transport alone",
    "rest_client_exec_plugin_ttl_seconds": "Go's transport alone",
    "rest_client_rate_limiter_duration_seconds": "requests are as rare as watches",
    "rest_client_request_size_bytes": "only Events have a body",
    "rest_client_response_size_bytes": "watches have no size; see `kbe_nat_watch_events_total`",
    "rest_client_transport_cache_entries": "Go's transport alone",
    "rest_client_transport_cert_rotation_gc_calls_total": "Go's transport alone",
    "rest_client_transport_create_calls_total": "Go's transport alone",
}
"""kube-proxy's metrics that would mean something else here, and why."""
