"""kube-proxy's own configuration file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1): what of it
decides how packets are served.
"""

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from kbe_nat.errors import FileError
from kbe_nat.sources.documents import document, reason_and_path


class DetectLocal(msgspec.Struct, frozen=True, rename="camel"):
    """`detectLocal`: which device the modes BridgeInterface and InterfaceNamePrefix look at."""

    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Backend(msgspec.Struct, frozen=True, rename="camel"):
    """`iptables` or `nftables`: what one mode is told."""

    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None


class Conntrack(msgspec.Struct, frozen=True, rename="camel"):
    """`conntrack`: only what changes rules."""

    tcp_be_liberal: bool | None = None


class Configuration(msgspec.Struct, frozen=True, rename="camel"):
    """The fields that are read; None where the file says nothing. The three that the API has under `iptables` and
    `nftables` may also stand at the top, for both.
    """

    mode: Literal["", "iptables", "nftables", "ipvs"] = ""
    cluster_cidr: str = msgspec.field(name="clusterCIDR", default="")
    detect_local_mode: Literal["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] = ""
    detect_local: DetectLocal = DetectLocal()
    node_port_addresses: tuple[str, ...] = ()
    hostname_override: str = ""
    bind_address: str = ""
    conntrack: Conntrack = Conntrack()
    iptables: Backend = Backend()
    nftables: Backend = Backend()
    masquerade_bit: int | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None

    def of_mode(self, mode: str) -> Backend:
        """What holds for a mode."""
        own = self.nftables if mode == "nftables" else self.iptables
        return Backend(
            self.masquerade_bit if own.masquerade_bit is None else own.masquerade_bit,
            self.masquerade_all if own.masquerade_all is None else own.masquerade_all,
            self.localhost_node_ports if own.localhost_node_ports is None else own.localhost_node_ports,
        )


def read_configuration(path: Path) -> tuple[Configuration, tuple[str, ...]]:
    """What the file says, and notes on what means nothing here. Mode ipvs is read as iptables, which it follows
    where packets are decided and not balanced.

    Raises `FileError`, with the field, when the file is missing, no YAML, or a field has a wrong value.
    """
    given = {key: value for key, value in document(path, dict[str, Any], {}).items() if value is not None}
    kind = given.get("kind", KIND)
    if kind != KIND:
        raise FileError(f"{path}: kind: {kind!r} is not {KIND}")
    try:
        configuration = msgspec.convert(given, Configuration)
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {field}: {reason}") from None
    known = {field.encode_name for field in msgspec.structs.fields(Configuration)} | {"kind", "apiVersion"}
    unread = ", ".join(name for name in given if name not in known)
    notes = [f"{path}: not read: {unread}"] if unread else []
    if configuration.mode == "ipvs":
        configuration = msgspec.structs.replace(configuration, mode="iptables")
        notes.append(f"{path}: mode: ipvs is not followed, decisions and rules are those of iptables mode")
    return configuration, tuple(notes)


KIND: Final = "KubeProxyConfiguration"
