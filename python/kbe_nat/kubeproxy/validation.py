"""kube-proxy 1.36 refuses such values of its configuration, for these reasons
(pkg/proxy/apis/config/validation).

Feature gates are not checked: each release of kube-proxy has others.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from kbe_nat.family import family_of
from kbe_nat.kubeproxy.duration import duration
from kbe_nat.sources.address import parse_address, parse_range

if TYPE_CHECKING:
    from kbe_nat.kubeproxy.config import IPVS, Configuration, Conntrack, Logging, ModeConfig


def violations(file: "Configuration") -> Iterator[tuple[str, str]]:
    """The path of each field that kube-proxy refuses, and why."""
    mode, detector = file.mode or "iptables", file.detect_local_mode or "ClusterCIDR"
    if mode not in MODES:
        yield "mode", f"{mode!r}: {BAD_MODE}"
    yield from _bit("iptables.masqueradeBit", file.iptables.masquerade_bit)
    yield from _bit("masqueradeBit", file.masquerade_bit)
    if mode == "nftables":
        yield from _bit("nftables.masqueradeBit", file.nftables.masquerade_bit)
    elif mode == "ipvs":
        yield from _ipvs(file.ipvs)
    yield from _durations(file)
    yield from _conntrack(file.conntrack)
    score = file.oom_score_adj
    if score is not None and not -1000 <= score <= 1000:
        yield "oomScoreAdj", f"{score}: must be within the range [-1000, 1000]"
    if file.client_connection.burst < 0:
        yield "clientConnection.burst", f"{file.client_connection.burst}: {NOT_NEGATIVE}"
    yield from _periods(file, mode)
    if file.bind_address and not _is(parse_address, file.bind_address):
        reason = "not a valid textual representation of an IP address"
        yield "bindAddress", f"{file.bind_address!r}: {reason}"
    yield from _host_port("healthzBindAddress", file.healthz_bind_address)
    yield from _host_port("metricsBindAddress", file.metrics_bind_address)
    yield from _node_port_addresses(file.node_port_addresses)
    if file.show_hidden_metrics_for_version not in ("", SHOWN_VERSION):
        yield "showHiddenMetricsForVersion", BAD_SHOWN_VERSION
    yield from _detector(file, detector)
    yield from _logging(file.logging)


def quantity_refusal(text: str) -> str:
    """Why a text is no quantity of Kubernetes, such as 1Ki; empty for one."""
    return "" if _QUANTITY.fullmatch(text) else f"{text[:40]!r} is no quantity such as 64Ki"


def check_cluster_ranges(texts: Sequence[str]) -> tuple[str, ...]:
    """The ranges, at most one of each family, in canonical text. Raises ValueError with
    kube-proxy's reason.
    """
    if len(texts) > 2:
        raise ValueError(f"{','.join(texts)!r}: {BAD_PAIR}")
    for text in texts:
        if not _is(parse_range, text) or text != text.strip():
            raise ValueError(f"{text!r}: {BAD_CLUSTER_RANGE}")
    ranges = tuple(parse_range(text) for text in texts)
    if len({family_of(text) for text in ranges}) < len(ranges):
        raise ValueError(f"{','.join(texts)!r}: {BAD_PAIR}")
    return ranges


def check_node_port_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """The ranges in canonical text, or "primary" alone.

    Raises ValueError with kube-proxy's reason.
    """
    for _, reason in _node_port_addresses(texts):
        raise ValueError(reason)
    return tuple(text if text == "primary" else parse_range(text) for text in texts)


def _logging(config: "Logging") -> Iterator[tuple[str, str]]:
    if config.format not in ("", "text", "json"):
        yield "logging.format", f"{config.format!r}: unsupported log format"
    if config.verbosity > MAX_VERBOSITY:
        yield "logging.verbosity", f"{config.verbosity}: must be <= {MAX_VERBOSITY}"
    for i, item in enumerate(config.vmodule):
        if not item.file_pattern:
            yield f"logging.vmodule[{i}].filePattern", "file pattern must not be empty"
        elif any(sign in item.file_pattern for sign in "=,"):
            yield f"logging.vmodule[{i}].filePattern", "file pattern must not contain = or ,"
        if item.verbosity > MAX_VERBOSITY:
            yield f"logging.vmodule[{i}].verbosity", f"must be <= {MAX_VERBOSITY}"
    if config.vmodule and config.format not in ("", "text"):
        yield "logging.vmodule", "only supported for text log format"
    for name in ("json", "text"):
        size = getattr(config.options, name).info_buffer_size
        if isinstance(size, str) and (refusal := quantity_refusal(size)):
            yield f"logging.options.{name}.infoBufferSize", refusal


def _bit(field: str, bit: int | None) -> Iterator[tuple[str, str]]:
    if bit is not None and not 0 <= bit <= LAST_BIT:
        yield field, f"{bit}: must be within the range [0, {LAST_BIT}]"


def _ipvs(config: "IPVS") -> Iterator[tuple[str, str]]:
    yield from _not_negative("ipvs.tcpTimeout", config.tcp_timeout)
    yield from _not_negative("ipvs.tcpFinTimeout", config.tcp_fin_timeout)
    yield from _not_negative("ipvs.udpTimeout", config.udp_timeout)
    for i, text in enumerate(config.exclude_cidrs):
        if not _is(parse_range, text):
            yield f"ipvs.excludeCIDRs[{i}]", f"{text!r}: {BAD_RANGE}"


def _durations(file: "Configuration") -> Iterator[tuple[str, str]]:
    """kube-proxy reads these as durations also where it makes no use of them."""
    config = file.ipvs
    for field, text in (
        ("ipvs.tcpTimeout", config.tcp_timeout),
        ("ipvs.tcpFinTimeout", config.tcp_fin_timeout),
        ("ipvs.udpTimeout", config.udp_timeout),
        ("logging.flushFrequency", file.logging.flush_frequency),
    ):
        try:
            duration(text if isinstance(text, str) else "0")
        except ValueError as error:
            yield field, str(error)


def _conntrack(config: "Conntrack") -> Iterator[tuple[str, str]]:
    for field, count in (("maxPerCore", config.max_per_core), ("min", config.min)):
        if count is not None and count < 0:
            yield f"conntrack.{field}", f"{count}: {NOT_NEGATIVE}"
    yield from _not_negative("conntrack.tcpEstablishedTimeout", config.tcp_established_timeout)
    yield from _not_negative("conntrack.tcpCloseWaitTimeout", config.tcp_close_wait_timeout)
    yield from _not_negative("conntrack.udpTimeout", config.udp_timeout)
    yield from _not_negative("conntrack.udpStreamTimeout", config.udp_stream_timeout)


def _periods(file: "Configuration", mode: str) -> Iterator[tuple[str, str]]:
    """A period of 0 stands for its default. The periods of modes that are not followed need only be
    durations.
    """
    yield from _positive("configSyncPeriod", file.config_sync_period)
    for name, config in (
        ("iptables", file.iptables),
        ("nftables", file.nftables),
        ("ipvs", file.ipvs),
    ):
        yield from _mode_periods(name, config, is_followed=name == mode)


def _mode_periods(
    name: str, config: "ModeConfig | IPVS", *, is_followed: bool
) -> Iterator[tuple[str, str]]:
    seconds = []
    # IPVS has no minimum of its own.
    for field, text, default in (
        ("syncPeriod", config.sync_period, 30.0),
        ("minSyncPeriod", config.min_sync_period, 0.0 if name == "ipvs" else 1.0),
    ):
        try:
            seconds.append(duration("0" if text is None else text) or default)
        except ValueError as error:
            yield f"{name}.{field}", str(error)
            return
    period, least = seconds
    if not is_followed:
        return
    if period <= 0:
        yield f"{name}.syncPeriod", f"{config.sync_period!r}: {POSITIVE}"
    if least < 0:
        yield f"{name}.minSyncPeriod", f"{config.min_sync_period!r}: {NOT_NEGATIVE}"
    if least > period:
        yield (
            f"{name}.syncPeriod",
            f"{period:g}s: must be greater than or equal to minSyncPeriod, {least:g}s",
        )


def _positive(field: str, text: str | None) -> Iterator[tuple[str, str]]:
    try:
        if duration("0" if text is None else text) < 0:
            yield field, f"{text!r}: {POSITIVE}"
    except ValueError as error:
        yield field, str(error)


def _not_negative(field: str, text: str | None) -> Iterator[tuple[str, str]]:
    try:
        if duration("0" if text is None else text) < 0:
            yield field, f"{text!r}: {NOT_NEGATIVE}"
    except ValueError as error:
        yield field, str(error)


def _host_port(field: str, text: str) -> Iterator[tuple[str, str]]:
    """An address with a port, or alone; empty is the default."""
    if not text or _is(parse_address, text):
        return
    parts = _HOST_PORT.fullmatch(text)
    if parts is None:
        yield field, f"{text!r}: must be IP:port"
        return
    host, port = parts[1] or parts[2] or "", parts[3]
    if not _is(parse_address, host):
        yield field, f"{host!r}: must be a valid IP"
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:9]) <= 65535):
        yield field, f"{port!r}: must be a valid port"


def _node_port_addresses(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, text in enumerate(texts):
        if text == "primary":
            if len(texts) != 1:
                yield f"nodePortAddresses[{i}]", "'primary': can't use both 'primary' and CIDRs"
            return
        if not _is(parse_range, text) or text != text.strip():
            yield f"nodePortAddresses[{i}]", f"{text!r}: {BAD_RANGE}"


def _detector(file: "Configuration", detector: str) -> Iterator[tuple[str, str]]:
    """The detector alone: `kbe_nat.cli.flags.node` checks the device's name."""
    if detector not in DETECTORS:
        supported = ", ".join(f'"{name}"' for name in (*DETECTORS, ""))
        yield "detectLocalMode", f"{detector!r}: supported values: {supported}"
    elif detector == "ClusterCIDR" and file.cluster_cidr:
        try:
            check_cluster_ranges(file.cluster_cidr.split(","))
        except ValueError as error:
            yield "clusterCIDR", str(error)


def _is(parser: Callable[[str], str], text: str) -> bool:
    try:
        parser(text)
    except ValueError:
        return False
    return True


MODES: Final = ("iptables", "ipvs", "nftables")
DETECTORS: Final = ("BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR")
LAST_BIT: Final = 31
SHOWN_VERSION: Final = "1.35"
"""The minor release before the one that is followed."""
POSITIVE: Final = "must be greater than 0"
NOT_NEGATIVE: Final = "must be greater than or equal to 0"
BAD_MODE: Final = (
    f"must be {', '.join(MODES)} or blank"
    " (blank means the best-available proxy [currently iptables])"
)
BAD_RANGE: Final = "must be a valid CIDR"
BAD_CLUSTER_RANGE: Final = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
BAD_PAIR: Final = (
    "must be either a single CIDR or dual-stack pair of CIDRs"
    " (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)"
)
BAD_SHOWN_VERSION: Final = (
    f"must be omitted or have the value '{SHOWN_VERSION}'."
    " Only the previous minor version is allowed"
)
MAX_VERBOSITY: Final = (1 << 31) - 1
_QUANTITY: Final = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?", re.ASCII
)
_HOST_PORT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:\[\]]*)")
