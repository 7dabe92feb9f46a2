"""The settings of a node: operators' flags, merged with kube-proxy's configuration file.

A flag counts before the file, and the file before the default. Only the flags are values here: the
node's name and the devices of its pods follow from the objects and the host, so `options` computes
them for each snapshot.
"""

import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.duration import duration
from kbe_nat.kubeproxy.validation import (
    LAST_BIT,
    check_cluster_ranges,
    check_node_port_addresses,
)
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.policy.options import Mode, Options, strange_node
from kbe_nat.sources.address import parse_address

_T = TypeVar("_T")


class LocalMode(StrEnum):
    """How packets of this cluster's pods are told from others."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class RejectWith(StrEnum):
    """How TCP is rejected."""

    ICMP = "icmp"
    TCP_RESET = "tcp-reset"


@dataclass(frozen=True)
class NodeSettings:
    """The flags; None or empty where the file or a default counts."""

    config: Path | None = None
    """kube-proxy's configuration file."""
    node: str = ""
    node_addresses: tuple[str, ...] = ()
    """Of the node, besides loopback's."""
    mode: Mode | None = None
    cluster_ranges: tuple[str, ...] | None = None
    """Of pod addresses, one per family."""
    local_mode: LocalMode | None = None
    pod_bridge: str | None = None
    pod_device_prefix: str | None = None
    masquerade_all: bool | None = None
    node_port_addresses: tuple[str, ...] | None = None
    """Ranges of addresses that serve node ports, or "primary"."""
    localhost_node_ports: bool | None = None
    external_ranges: tuple[str, ...] = ()
    reject_with: RejectWith = RejectWith.ICMP
    proxy_name: str | None = None
    """Of this proxy, where it serves beside another one; None: Services without such a label."""

    def options(
        self,
        snapshot: Snapshot,
        file: Configuration = Configuration(),  # noqa: B008
        strategy: Strategy = Strategy.RANDOM,
        *,
        written: Mode | None = None,
        local_addresses: tuple[str, ...] = (),
        former_node: str = "",
    ) -> Options:
        """The options by flags and file, checked against the objects. `written` is the mode whose
        rules are asked for, where that is not the mode that is followed; `local_addresses` are the
        host's, for a node whose addresses no flag gives. `former_node` is the node that this was
        before: it stays that one when its Node is deleted.

        Raises `SettingError`, also for a flag that would have no effect.
        """
        mode = self.stated_mode(file) or Mode.IPTABLES
        local_mode = self.local_mode or LocalMode(file.detect_local_mode or LocalMode.CLUSTER_CIDR)
        self._check_effect(local_mode, written or mode)
        device = self._device(local_mode, file)
        node_addresses = self.node_addresses or local_addresses
        masquerade = {mode: self._masquerade(file, mode) for mode in Mode}
        masquerade_all, masquerade_bit = masquerade.pop(mode)
        [other_masquerade] = masquerade.values()
        return Options(
            node=self._node(snapshot, file, node_addresses, former_node),
            node_addresses=node_addresses,
            primary_address=_primary_address(file.bind_address),
            cluster_ranges=self._cluster_ranges(local_mode, file),
            uses_node_ranges=local_mode is LocalMode.NODE_CIDR,
            pod_interface=device,
            pod_interfaces=tuple(
                number for number, name in socket.if_nameindex() if matches(device, name)
            ),
            masquerade_all=masquerade_all,
            masquerade_bit=masquerade_bit,
            other_masquerade=other_masquerade,
            node_port_addresses=self._node_port_addresses(file),
            # Only that mode serves node ports there, whichever is followed now.
            localhost_node_ports=_first(
                self.localhost_node_ports,
                file.of_mode(Mode.IPTABLES).localhost_node_ports,
                default=True,
            ),
            is_conntrack_liberal=bool(file.conntrack.tcp_be_liberal),
            mode=mode,
            external_ranges=self.external_ranges,
            resets_tcp=self.reject_with is RejectWith.TCP_RESET,
            strategy=strategy,
            proxy_name=self.proxy_name,
        )

    def stated_mode(self, file: Configuration) -> Mode | None:
        """The mode that a flag or the file states; None without either."""
        return self.mode or (Mode(file.mode) if file.mode else None)

    def stale_seconds(self, file: Configuration) -> float:
        """For how long a change may wait until the node is unhealthy: twice the sync period."""
        is_nftables = self.stated_mode(file) is Mode.NFTABLES
        period = (file.nftables if is_nftables else file.iptables).sync_period
        return 2 * (duration(period or "0") or DEFAULT_SYNC_SECONDS)

    def _check_effect(self, local_mode: LocalMode, mode: Mode) -> None:
        for flag, value, needed in (
            ("--cluster-cidr", self.cluster_ranges, LocalMode.CLUSTER_CIDR),
            ("--pod-bridge-interface", self.pod_bridge, LocalMode.BRIDGE_INTERFACE),
            (
                "--pod-interface-name-prefix",
                self.pod_device_prefix,
                LocalMode.INTERFACE_NAME_PREFIX,
            ),
        ):
            if value is not None and local_mode is not needed:
                raise SettingError(
                    flag,
                    f"it has no effect: pods are told by {local_mode}, not by {needed}"
                    " (--detect-local-mode)",
                )
        if self.localhost_node_ports is not None and mode is Mode.NFTABLES:
            raise SettingError(
                "--localhost-nodeports",
                "it has no effect: no node ports are served on 127.0.0.1 in nftables mode",
            )

    def _cluster_ranges(self, local_mode: LocalMode, file: Configuration) -> tuple[str, ...]:
        """Of pods: none where something else tells them."""
        if local_mode is not LocalMode.CLUSTER_CIDR:
            return ()
        if self.cluster_ranges is not None:
            return self.cluster_ranges
        # The file was checked by its own detector; a flag may have chosen this one.
        try:
            return check_cluster_ranges(file.cluster_cidr.split(",") if file.cluster_cidr else [])
        except ValueError as error:
            raise SettingError("clusterCIDR", str(error)) from None

    def _node_port_addresses(self, file: Configuration) -> tuple[str, ...]:
        if self.node_port_addresses is not None:
            return self.node_port_addresses
        return check_node_port_addresses(file.node_port_addresses)

    def _masquerade(self, file: Configuration, mode: Mode) -> tuple[bool, int]:
        """Whether all is masqueraded in a mode, and by which bit."""
        config = file.of_mode(mode)
        bit = _first(config.masquerade_bit, default=DEFAULT_BIT)
        if not 0 <= bit <= LAST_BIT:
            # kube-proxy does not check what the file says for a mode that it is not in.
            bit = DEFAULT_BIT
        return _first(self.masquerade_all, config.masquerade_all, default=False), bit

    def _node(
        self,
        snapshot: Snapshot,
        file: Configuration,
        node_addresses: tuple[str, ...],
        former_node: str,
    ) -> str:
        # As kubelet names a node that is told its name.
        node = self.node or file.hostname_override.strip().lower()
        node = node or former_node or _likely_node(snapshot, node_addresses)
        # The name of a Node that was there is no mistake, and what is served must go on.
        strange = strange_node(node, snapshot.nodes)
        if strange and node != former_node:
            raise SettingError("--node", strange)
        return node

    def _device(self, local_mode: LocalMode, file: Configuration) -> str:
        """The name of the pods' device, or its beginning with a +; empty when ranges tell pods."""
        if local_mode is LocalMode.BRIDGE_INTERFACE:
            name = _first(self.pod_bridge, file.detect_local.bridge_interface, default="")
            flag, ending, field = "--pod-bridge-interface", "", "bridgeInterface"
        elif local_mode is LocalMode.INTERFACE_NAME_PREFIX:
            name = _first(
                self.pod_device_prefix, file.detect_local.interface_name_prefix, default=""
            )
            flag, ending, field = "--pod-interface-name-prefix", "+", "interfaceNamePrefix"
        else:
            return ""
        if not name:
            raise SettingError(
                flag,
                f"{local_mode} needs the name of a device: detectLocal.{field} must not be empty",
            )
        return f"{name}{ending}"


def matches(device: str, name: str) -> bool:
    """Whether a device of this name is meant, in iptables' way: a + stands for any ending."""
    return name.startswith(device[:-1]) if device.endswith("+") else bool(device) and name == device


def _likely_node(snapshot: Snapshot, node_addresses: tuple[str, ...]) -> str:
    """The Node that this is when no name is given: empty where nothing tells."""
    nodes = snapshot.nodes
    if len(nodes) == 1:
        return next(iter(nodes))
    # kube-proxy goes by the host's name alone, which cloud providers' Nodes need not have.
    host = socket.gethostname().strip().lower()
    if host in nodes:
        return host
    likely = [
        node.name for node in nodes.values() if not set(node_addresses).isdisjoint(node.addresses)
    ]
    return likely[0] if len(likely) == 1 else ""


def _primary_address(bind_address: str) -> str:
    """The address that kube-proxy listens on; empty for all addresses."""
    address = parse_address(bind_address) if bind_address else ""
    return "" if address in ("0.0.0.0", "::") else address


def _first(*values: _T | None, default: _T) -> _T:
    """The first that is not None."""
    return next((value for value in values if value is not None), default)


DEFAULT_BIT: Final = 14
DEFAULT_SYNC_SECONDS: Final = 30.0
