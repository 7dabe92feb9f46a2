"""kube-proxy's own configuration file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1):
its fields with their types, what of it decides how packets are served, and what kube-proxy would
refuse.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.validation import wrong
from kbe_nat.sources.manifests.documents import TOO_DEEP, document, reason_and_path

KIND: Final = "KubeProxyConfiguration"
API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
Duration: TypeAlias = str
"""As Go writes it, such as 1m30s."""


class DetectLocal(msgspec.Struct, frozen=True, rename="camel"):
    """`detectLocal`: which device the modes BridgeInterface and InterfaceNamePrefix look at."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class ModeConfig(msgspec.Struct, frozen=True, rename="camel"):
    """`iptables` or `nftables`: what one mode is told."""

    masquerade_bit: Int32 | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None
    sync_period: Duration | None = None
    min_sync_period: Duration | None = None


class IPVS(msgspec.Struct, frozen=True, rename="camel"):
    """`ipvs`."""

    sync_period: Duration | None = None
    min_sync_period: Duration | None = None
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = msgspec.field(name="excludeCIDRs", default=())
    strict_arp: bool = msgspec.field(name="strictARP", default=False)
    tcp_timeout: Duration | None = None
    tcp_fin_timeout: Duration | None = None
    udp_timeout: Duration | None = None


class Winkernel(msgspec.Struct, frozen=True, rename="camel"):
    """`winkernel`."""

    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(name="enableDSR", default=False)
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = msgspec.field(name="forwardHealthCheckVip", default=False)


class Conntrack(msgspec.Struct, frozen=True, rename="camel"):
    """`conntrack`: of it only `tcpBeLiberal` changes rules."""

    max_per_core: Int32 | None = None
    min: Int32 | None = None
    tcp_established_timeout: Duration | None = None
    tcp_close_wait_timeout: Duration | None = None
    tcp_be_liberal: bool | None = None
    udp_timeout: Duration | None = None
    udp_stream_timeout: Duration | None = None


class ClientConnection(msgspec.Struct, frozen=True, rename="camel"):
    """`clientConnection`."""

    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = ""
    qps: float = 0
    burst: Int32 = 0


class Logging(msgspec.Struct, frozen=True, rename="camel"):
    """`logging`."""

    format: str = ""
    flush_frequency: Duration | int | None = None
    verbosity: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    vmodule: list[Any] = []
    options: dict[str, Any] = {}


class Configuration(msgspec.Struct, frozen=True, rename="camel"):
    """All fields; None where the file says nothing. The three that the API has under `iptables` and
    `nftables` may also stand at the top, for both.
    """

    api_version: str = API_VERSION
    kind: str = KIND
    mode: str = ""
    cluster_cidr: str = msgspec.field(name="clusterCIDR", default="")
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    node_port_addresses: tuple[str, ...] = ()
    hostname_override: str = ""
    bind_address: str = ""
    conntrack: Conntrack = Conntrack()
    iptables: ModeConfig = ModeConfig()
    nftables: ModeConfig = ModeConfig()
    masquerade_bit: Int32 | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None

    # What follows decides nothing here.
    ipvs: IPVS = IPVS()
    winkernel: Winkernel = Winkernel()
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    feature_gates: dict[str, bool] = {}
    healthz_bind_address: str = ""
    metrics_bind_address: str = ""
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    oom_score_adj: Int32 | None = None
    config_sync_period: Duration | None = None
    port_range: str = ""
    windows_run_as_service: bool = False

    def of_mode(self, mode: str) -> ModeConfig:
        """What holds for a mode."""
        own = self.nftables if mode == "nftables" else self.iptables
        return ModeConfig(
            self.masquerade_bit if own.masquerade_bit is None else own.masquerade_bit,
            self.masquerade_all if own.masquerade_all is None else own.masquerade_all,
            self.localhost_node_ports
            if own.localhost_node_ports is None
            else own.localhost_node_ports,
        )


def read_configuration(path: Path) -> tuple[Configuration, tuple[str, ...]]:
    """What the file says, and notes on what means nothing here. Mode ipvs is read as iptables,
    which it follows where packets are decided and not balanced. A file without version and kind is
    taken for one.

    Raises `FileError`, with the field, when the file is missing, no YAML, or says what kube-proxy
    would refuse, for kube-proxy's reason.
    """
    given = document(path, dict[str, Any], {})
    kind, version = given.get("kind") or KIND, given.get("apiVersion") or API_VERSION
    if kind != KIND:
        hint = CONFIG_MAP if kind == "ConfigMap" else ""
        raise FileError(f"{path}: kind: {kind!r} is not {KIND}{hint}")
    if version != API_VERSION:
        raise FileError(f"{path}: apiVersion: {version!r} is not {API_VERSION}")
    try:
        given = _without_nulls(given)
        configuration = msgspec.convert(given, Configuration)
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {field}: {reason}") from None
    except RecursionError:
        raise FileError(f"{path}: {TOO_DEEP}") from None
    for field, reason in wrong(configuration):
        raise FileError(f"{path}: {field}: {reason}")
    notes = []
    # Go's lenient decoder passes them over: kube-proxy falls back to it.
    if unknown := tuple(_unknown(given, Configuration)):
        if given.keys() <= {*unknown}:
            raise FileError(
                f"{path}: it is no {KIND}: there is no such field as {', '.join(unknown)}"
            )
        notes.append(f"{path}: no such field: {', '.join(unknown)}")
    if unread := ", ".join(name for name in given if name in UNREAD):
        notes.append(f"{path}: not read: {unread}")
    if configuration.mode == "ipvs":
        configuration = msgspec.structs.replace(configuration, mode="iptables")
        notes.append(
            f"{path}: mode: ipvs is not followed, decisions and rules are those of iptables mode"
        )
    return configuration, tuple(notes)


def _without_nulls(value: Any) -> Any:  # noqa: ANN401
    """A field that is null is left out; in a list null is an empty text, as to Go."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return ["" if inner is None else _without_nulls(inner) for inner in value]
    return value


def _unknown(given: Mapping[str, Any], kind: type, place: str = "") -> Iterator[str]:
    """The paths of what is given and is no field."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in given.items():
        if name not in known:
            yield f"{place}{name}"
        elif isinstance(known[name], type) and issubclass(known[name], msgspec.Struct):
            yield from _unknown(value, known[name], f"{place}{name}.")


CONFIG_MAP: Final = (
    ", but may contain one: kubectl -n kube-system get configmap kube-proxy "
    "-o jsonpath='{.data.config\\.conf}'"
)
"""Where kubeadm keeps it."""
UNREAD: Final = frozenset(
    field.encode_name
    for field in msgspec.structs.fields(Configuration)[
        Configuration.__struct_fields__.index("ipvs") :
    ]
)
"""Fields that decide nothing here."""
