"""Makes the source of an API server from the settings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kbe_nat.daemon.objects_file import StoredObjects
from kbe_nat.daemon.own_node import node_name
from kbe_nat.daemon.settings import Settings
from kbe_nat.kubeproxy.duration import duration
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.policy.options import Mode
from kbe_nat.sources.events import EventQueue
from kbe_nat.sources.kubernetes.access import find_access
from kbe_nat.sources.kubernetes.encodings import JSON, Encoding
from kbe_nat.sources.kubernetes.http_connection import HttpConnection
from kbe_nat.sources.kubernetes.resources import watched_resources
from kbe_nat.sources.kubernetes.source import Kubernetes
from kbe_nat.sources.store import Store


def api_server(
    settings: Settings,
    store: Store,
    metrics: RestMetrics | None = None,
    events: EventQueue | None = None,
    in_force: Callable[[], Settings] | None = None,
) -> Kubernetes:
    """The objects of the API server that the kubeconfig and --master name, or of this Pod's. Its
    requests are counted in `metrics`, and `events` are posted to it. `in_force` are the settings
    of now. Raises `FileError`, `SettingError`.
    """
    file = settings.configuration
    kubeconfig = file.client_connection.kubeconfig
    access = find_access(Path(kubeconfig) if kubeconfig else None, settings.source.master)
    mode = settings.node.stated_mode(file) or Mode.IPTABLES
    return Kubernetes(
        partial(HttpConnection, access, metrics),
        watched_resources(
            node_name(settings),
            settings.node.proxy_name,
            has_service_ranges=mode is Mode.NFTABLES,
        ),
        store,
        encoding=settings.source.api_encoding or _encoding(file.client_connection.content_type),
        file=StoredObjects(settings.files.state, access.server) if settings.files.state else None,
        events=events,
        min_sync_seconds=lambda: _min_sync_seconds(in_force() if in_force else settings),
    )


def _min_sync_seconds(settings: Settings) -> float:
    """Between two updates, by the section of the mode that is followed."""
    file = settings.configuration
    mode = settings.node.stated_mode(file) or Mode.IPTABLES
    pace = file.nftables if mode is Mode.NFTABLES else file.iptables
    return duration(pace.min_sync_period) if pace.min_sync_period else 0.0


def _encoding(content_type: str) -> Encoding:
    """The encoding that kube-proxy's field means."""
    return Encoding.JSON if content_type.strip() == JSON.media_type else Encoding.PROTOBUF
