"""kube-proxy's own configuration file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1):
its fields with their types, and the reading of a file, which refuses what kube-proxy would refuse.
Fields that nothing here follows are in `kbe_nat.kubeproxy.inapplicable`, the defaults in
`kbe_nat.kubeproxy.effective`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_args

import msgspec

from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.validation import violations
from kbe_nat.sources.manifests.documents import TOO_DEEP, document, reason_and_path
from kbe_nat.spelling import hint

KIND: Final = "KubeProxyConfiguration"
API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
Duration: TypeAlias = str
"""As Go writes it, such as 1m30s."""
UInt32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class DetectLocal(msgspec.Struct, frozen=True, rename="camel"):
    """`detectLocal`: which device the modes BridgeInterface and InterfaceNamePrefix look at."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class ModeConfig(msgspec.Struct, frozen=True, rename="camel"):
    """`iptables` or `nftables`: the settings of one mode."""

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
    """`conntrack`: limits and timeouts of connections."""

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


class VModuleItem(msgspec.Struct, frozen=True, rename="camel"):
    """One of `logging.vmodule`."""

    file_pattern: str = ""
    verbosity: UInt32 = 0


class OutputOptions(msgspec.Struct, frozen=True, rename="camel"):
    """`logging.options.text` or `logging.options.json`."""

    info_buffer_size: str | int | float = "0"
    split_stream: bool = False


class FormatOptions(msgspec.Struct, frozen=True):
    """`logging.options`."""

    json: OutputOptions = OutputOptions()
    text: OutputOptions = OutputOptions()


class Logging(msgspec.Struct, frozen=True, rename="camel"):
    """`logging`."""

    format: str = ""
    flush_frequency: Duration | int | None = None
    """A number counts nanoseconds."""
    verbosity: UInt32 = 0
    vmodule: tuple[VModuleItem, ...] = ()
    options: FormatOptions = FormatOptions()


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
    kbe_nat: dict[str, Any] = {}
    """Options of kbe-nat's own, by the names of its flags. The daemon knows them."""

    def of_mode(self, mode: str) -> ModeConfig:
        """The settings that hold for a mode."""
        config = self.nftables if mode == "nftables" else self.iptables
        return ModeConfig(
            self.masquerade_bit if config.masquerade_bit is None else config.masquerade_bit,
            self.masquerade_all if config.masquerade_all is None else config.masquerade_all,
            self.localhost_node_ports
            if config.localhost_node_ports is None
            else config.localhost_node_ports,
        )


def read_configuration(path: Path) -> tuple[Configuration, tuple[str, ...]]:
    """The configuration of a file, and notes on what is followed in another way. Mode ipvs is read
    as iptables, whose decisions it follows but for balancing. A file may leave version and kind
    out.

    Raises `FileError`, with the field, when the file is missing, no YAML, has a field that there is
    not, or says what kube-proxy would refuse, for kube-proxy's reason.
    """
    fields = document(path, dict[str, Any], {}, is_strict=True)
    kind, version = fields.get("kind") or KIND, fields.get("apiVersion") or API_VERSION
    if kind != KIND:
        hint = CONFIG_MAP if kind == "ConfigMap" else ""
        raise FileError(f"{path}: kind: {kind!r} is not {KIND}{hint}")
    if version != API_VERSION:
        raise FileError(f"{path}: apiVersion: {version!r} is not {API_VERSION}")
    try:
        fields = without_nulls(fields)
        configuration = msgspec.convert(fields, Configuration)
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {field}: {reason}") from None
    except RecursionError:
        raise FileError(f"{path}: {TOO_DEEP}") from None
    # kube-proxy itself passes unknown fields over, with a line in its log: a mistyped field is then
    # as good as absent.
    if unknown := tuple(_unknown(fields, Configuration)):
        if len(unknown) > 1 and fields.keys() <= {name for name, _ in unknown}:
            names = ", ".join(fields)
            raise FileError(f"{path}: it is no {KIND}: there is no such field as {names}")
        raise FileError(f"{path}: {'; '.join(f'{name}: {reason}' for name, reason in unknown)}")
    for field, reason in violations(configuration):
        raise FileError(f"{path}: {field}: {reason}")
    if configuration.mode != "ipvs":
        return configuration, ()
    return msgspec.structs.replace(configuration, mode="iptables"), (f"{path}: {NO_IPVS_MODE}",)


def unknown_name(name: str, names: Iterable[str], what: str, prefix: str = "") -> str:
    """The words about a name that none of these is, with the nearest of them, as it is written
    behind the prefix.
    """
    return f"there is no such {what}{hint(name, names, prefix)}"


def without_nulls(value: Any) -> Any:  # noqa: ANN401
    """A field that is null is left out; in a list null is an empty text, as to Go."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return ["" if inner is None else without_nulls(inner) for inner in value]
    return value


def _unknown(values: Mapping[str, Any], kind: type, place: str = "") -> Iterator[tuple[str, str]]:
    """The paths of the values that no field of a struct takes, with the words about each."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in values.items():
        if name not in types:
            yield f"{place}{name}", unknown_name(name, types, "field")
        elif _is_struct(types[name]):
            yield from _unknown(value, types[name], f"{place}{name}.")
        elif isinstance(value, list) and _is_struct(item := (*get_args(types[name]), None)[0]):
            for i, inner in enumerate(value):
                yield from _unknown(inner, item, f"{place}{name}[{i}].")


def _is_struct(kind: Any) -> bool:  # noqa: ANN401
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


CONFIG_MAP: Final = (
    ", but may contain one: kubectl -n kube-system get configmap kube-proxy "
    "-o jsonpath='{.data.config\\.conf}'"
)
"""Where kubeadm keeps it."""
NO_IPVS_MODE: Final = "mode: ipvs is not followed, decisions and rules are those of iptables mode"
