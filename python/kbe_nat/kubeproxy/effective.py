"""The configuration that is in force: each field with its default, where nothing else is said."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from kbe_nat.kubeproxy.config import (
    IPVS,
    ClientConnection,
    Configuration,
    Conntrack,
    Logging,
    ModeConfig,
)
from kbe_nat.kubeproxy.duration import go_duration, nanoseconds
from kbe_nat.sources.address import parse_address

_T = TypeVar("_T")


def complete(configuration: Configuration) -> Configuration:
    """The configuration with kube-proxy's defaults in every field, durations and addresses in one
    form. To complete it once more changes nothing. `minSyncPeriod` alone has a default of its own:
    0, where kube-proxy waits a second.
    """
    mode = configuration.mode or "iptables"
    hosts = ("::", "::1") if ":" in configuration.bind_address else ("0.0.0.0", "127.0.0.1")
    addresses = configuration.node_port_addresses
    if mode == "nftables" and not addresses:
        addresses = ("primary",)
    return replace(
        configuration,
        mode=mode,
        detect_local_mode=configuration.detect_local_mode or "ClusterCIDR",
        node_port_addresses=addresses,
        bind_address=configuration.bind_address or "0.0.0.0",
        conntrack=_conntrack(configuration.conntrack),
        iptables=_section(configuration, "iptables", mode),
        nftables=_section(configuration, "nftables", mode),
        masquerade_bit=None,
        masquerade_all=None,
        localhost_node_ports=None,
        ipvs=_ipvs(configuration.ipvs),
        client_connection=_client_connection(configuration.client_connection),
        logging=_logging(configuration.logging),
        healthz_bind_address=host_port(configuration.healthz_bind_address, hosts[0], HEALTHZ_PORT),
        metrics_bind_address=host_port(configuration.metrics_bind_address, hosts[1], METRICS_PORT),
        oom_score_adj=_first(configuration.oom_score_adj, OOM_SCORE),
        config_sync_period=_period(configuration.config_sync_period, "15m"),
    )


def host_port(text: str, default_host: str, port: int) -> str:
    """The address with a port, which a text of an address alone has not."""
    if not text:
        text = default_host
    try:
        address = parse_address(text)
    except ValueError:
        return text
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def as_document(configuration: Configuration) -> dict[str, Any]:
    """The completed configuration as kube-proxy writes it, without our own options: fields in the
    order of their names, null for lists without items. Fields that kube-proxy does not write while
    they say nothing are left out.
    """
    values: dict[str, Any] = msgspec.to_builtins(complete(configuration))
    for name in ("masqueradeBit", "masqueradeAll", "localhostNodePorts", "kbeNat"):
        del values[name]
    if values["nftables"]["localhostNodePorts"] is None:
        del values["nftables"]["localhostNodePorts"]
    for name in ("featureGates", "windowsRunAsService"):
        if not values[name]:
            del values[name]
    if not values["logging"]["vmodule"]:
        del values["logging"]["vmodule"]
    for options in values["logging"]["options"].values():
        if not options["splitStream"]:
            del options["splitStream"]
    document: dict[str, Any] = _in_order(values)
    return document


def value_at(values: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    """The value at a path such as "iptables.syncPeriod"."""
    value: Any = values
    for name in path.split("."):
        value = value[name]
    return value


def _section(configuration: Configuration, name: str, mode: str) -> ModeConfig:
    section: ModeConfig = getattr(configuration, name)
    is_iptables = name == "iptables"
    whole = configuration.of_mode(name)
    # The other mode's periods are not looked at, and kube-proxy writes none.
    default = "30s" if name == mode else "0s"
    return ModeConfig(
        masquerade_bit=_first(whole.masquerade_bit, MASQUERADE_BIT),
        masquerade_all=_first(whole.masquerade_all, False),
        localhost_node_ports=_first(whole.localhost_node_ports, True)
        if is_iptables
        else whole.localhost_node_ports,
        sync_period=_period(section.sync_period, default),
        min_sync_period=_period(section.min_sync_period, "0s"),
    )


def _conntrack(section: Conntrack) -> Conntrack:
    """Here 0 stands for itself: the kernel's value stays."""
    return Conntrack(
        max_per_core=_first(section.max_per_core, 32768),
        min=_first(section.min, 131072),
        tcp_established_timeout=_go_text(section.tcp_established_timeout, "24h"),
        tcp_close_wait_timeout=_go_text(section.tcp_close_wait_timeout, "1h"),
        tcp_be_liberal=bool(section.tcp_be_liberal),
        udp_timeout=_go_text(section.udp_timeout, "0"),
        udp_stream_timeout=_go_text(section.udp_stream_timeout, "0"),
    )


def _ipvs(section: IPVS) -> IPVS:
    return replace(
        section,
        sync_period=_go_text(section.sync_period, "0"),
        min_sync_period=_go_text(section.min_sync_period, "0"),
        tcp_timeout=_go_text(section.tcp_timeout, "0"),
        tcp_fin_timeout=_go_text(section.tcp_fin_timeout, "0"),
        udp_timeout=_go_text(section.udp_timeout, "0"),
    )


def _client_connection(section: ClientConnection) -> ClientConnection:
    return replace(
        section,
        content_type=section.content_type or PROTOBUF,
        qps=section.qps or 5,
        burst=section.burst or 10,
    )


def _logging(section: Logging) -> Logging:
    frequency = section.flush_frequency
    if isinstance(frequency, int):
        frequency = go_duration(frequency)
    return replace(
        section, format=section.format or "text", flush_frequency=_period(frequency, "5s")
    )


def _period(text: str | None, default: str) -> str:
    """A duration, of which 0 stands for its default."""
    return go_duration(nanoseconds(text or "0") or nanoseconds(default))


def _go_text(text: str | None, default: str) -> str:
    """A duration in Go's own form."""
    return go_duration(nanoseconds(default if text is None else text))


def _first(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _in_order(value: Any) -> Any:  # noqa: ANN401
    """Fields by their names, no list without items, and whole numbers without a point."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_in_order(item) for item in value] or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


MASQUERADE_BIT: Final = 14
HEALTHZ_PORT: Final = 10256
METRICS_PORT: Final = 10249
OOM_SCORE: Final = -999
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
