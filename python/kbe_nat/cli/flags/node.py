"""The flags that say for which node packets are decided, and how kube-proxy would be configured on
it.
"""

import inspect
import socket
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperCommand

from kbe_nat.cli.flags.options import parse, split, warn
from kbe_nat.kubeproxy.config import Configuration, read_configuration
from kbe_nat.kubeproxy.validation import LAST_BIT, check_cluster_ranges, check_node_port_addresses
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.policy.options import Mode, Options
from kbe_nat.sources.address import parse_address, parse_range

_T = TypeVar("_T")


class Detector(StrEnum):
    """How packets of this cluster's pods are told from others."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class Refusal(StrEnum):
    """What a client hears that is refused."""

    ICMP = "icmp"
    TCP_RESET = "tcp-reset"


@dataclass(frozen=True)
class NodeFlags:
    """Values of the flags; None where one was not given, so that the configuration file or a
    default counts.
    """

    config: Annotated[
        Path | None,
        typer.Option(help="kube-proxy's configuration file; flags go before what it says."),
    ] = None
    node: Annotated[
        str,
        typer.Option(
            help="Node to work for. Default: the only Node among the objects, or the one that has this "
            "host's name or a --node-address."
        ),
    ] = ""
    node_address: Annotated[
        list[str],
        typer.Option(
            help="Addresses of the node besides loopback. Default: those of the Node object."
        ),
    ] = ()  # type: ignore[assignment]
    mode: Annotated[
        Mode | None, typer.Option(help="kube-proxy's mode that is followed where the two differ.")
    ] = None
    cluster_cidr: Annotated[
        str | None,
        typer.Option(help="Range of pod addresses; two, one per family, with a comma between."),
    ] = None
    detect_local_mode: Annotated[Detector | None, typer.Option(help="By what pods are known.")] = (
        None
    )
    pod_bridge_interface: Annotated[
        str | None, typer.Option(help="Device behind which pods are, for BridgeInterface.")
    ] = None
    pod_interface_name_prefix: Annotated[
        str | None,
        typer.Option(help="Beginning of the names of pods' devices, for InterfaceNamePrefix."),
    ] = None
    masquerade_all: Annotated[
        bool | None,
        typer.Option("--masquerade-all", help="Masquerade everything that goes to a cluster IP."),
    ] = None
    nodeport_addresses: Annotated[
        str | None,
        typer.Option(
            help="Ranges of addresses that serve node ports, with commas between, or 'primary'. Default: all in "
            "iptables mode, 'primary' in nftables mode."
        ),
    ] = None
    localhost_nodeports: Annotated[
        bool | None,
        typer.Option(
            "--localhost-nodeports/--no-localhost-nodeports",
            help="Whether node ports are served on 127.0.0.1, in iptables mode; answers come back only with "
            "route_localnet. Default: they are.",
        ),
    ] = None

    external_ip_ranges: Annotated[
        str,
        typer.Option(
            help="Ranges of external IPs that are served, with commas between. Default: all are."
        ),
    ] = ""
    reject_with: Annotated[
        Refusal, typer.Option(help="How TCP is refused; kube-proxy sends an ICMP error.")
    ] = Refusal.ICMP

    def options(
        self, snapshot: Snapshot, strategy: Strategy = Strategy.RANDOM, written: Mode | None = None
    ) -> Options:
        """What flags and file say, checked against the objects; `written` is the mode whose rules
        are asked for, where that is not the mode that is followed. Raises `typer.BadParameter`,
        also for a flag that would have no effect, and `FileError`.
        """
        file = _configuration(self.config)
        mode = self.mode or Mode(file.mode or Mode.IPTABLES)
        detector = self.detect_local_mode or Detector(
            file.detect_local_mode or Detector.CLUSTER_CIDR
        )
        self._check_effect(detector, written or mode)
        device = self._device(detector, file)
        ranges, given = self._ranges(detector, file), self._node_port_addresses(file)
        masquerade = {one: self._masquerade(file, one) for one in Mode}
        is_all, bit = masquerade.pop(mode)
        [other] = masquerade.values()
        # Only that mode serves node ports there, whichever is followed now.
        localhost = file.of_mode(Mode.IPTABLES).localhost_node_ports
        return Options(
            node=self._node(snapshot, file),
            node_addresses=tuple(
                parse(parse_address, text, "--node-address") for text in self.node_address
            ),
            primary_address=_primary(file.bind_address),
            cluster_ranges=ranges,
            uses_node_ranges=detector is Detector.NODE_CIDR,
            pod_interface=device,
            pod_interfaces=tuple(
                number for number, name in socket.if_nameindex() if matches(device, name)
            ),
            masquerade_all=is_all,
            masquerade_bit=bit,
            other_masquerade=other,
            node_port_addresses=given,
            localhost_node_ports=_first(self.localhost_nodeports, localhost, default=True),
            is_conntrack_liberal=bool(file.conntrack.tcp_be_liberal),
            mode=mode,
            external_ranges=tuple(
                parse(parse_range, text, "--external-ip-ranges")
                for text in split(self.external_ip_ranges)
            ),
            resets_tcp=self.reject_with is Refusal.TCP_RESET,
            strategy=strategy,
        )

    def _check_effect(self, detector: Detector, mode: Mode) -> None:
        for flag, value, wanted in (
            ("--cluster-cidr", self.cluster_cidr, Detector.CLUSTER_CIDR),
            ("--pod-bridge-interface", self.pod_bridge_interface, Detector.BRIDGE_INTERFACE),
            (
                "--pod-interface-name-prefix",
                self.pod_interface_name_prefix,
                Detector.INTERFACE_NAME_PREFIX,
            ),
        ):
            if value is not None and detector is not wanted:
                raise typer.BadParameter(
                    f"it has no effect: pods are told by {detector}, not by {wanted} (--detect-local-mode)",
                    param_hint=flag,
                )
        if self.localhost_nodeports is not None and mode is Mode.NFTABLES:
            raise typer.BadParameter(
                "it has no effect: no node ports are served on 127.0.0.1 in nftables mode",
                param_hint="--localhost-nodeports",
            )

    def stated_mode(self) -> Mode | None:
        """What flag or file say, None without."""
        file = _configuration(self.config)
        return self.mode or (Mode(file.mode) if file.mode else None)

    def _ranges(self, detector: Detector, file: Configuration) -> tuple[str, ...]:
        """Of pods: none where something else tells them."""
        if detector is not Detector.CLUSTER_CIDR:
            return ()
        if self.cluster_cidr is not None:
            return parse(check_cluster_ranges, split(self.cluster_cidr), "--cluster-cidr")
        # Where the file has another detector, kube-proxy does not look at it.
        texts = file.cluster_cidr.split(",") if file.cluster_cidr else []
        return parse(check_cluster_ranges, texts, "clusterCIDR")

    def _node_port_addresses(self, file: Configuration) -> tuple[str, ...]:
        if self.nodeport_addresses is not None:
            listed = split(self.nodeport_addresses)
            return parse(check_node_port_addresses, listed, "--nodeport-addresses")
        return check_node_port_addresses(file.node_port_addresses)

    def _masquerade(self, file: Configuration, mode: Mode) -> tuple[bool, int]:
        """Whether all is masqueraded in a mode, and by which bit."""
        own = file.of_mode(mode)
        bit = _first(own.masquerade_bit, default=DEFAULT_BIT)
        if not 0 <= bit <= LAST_BIT:
            # kube-proxy does not look at what is said for a mode that it is not in.
            bit = DEFAULT_BIT
        return _first(self.masquerade_all, own.masquerade_all, default=False), bit

    def _node(self, snapshot: Snapshot, file: Configuration) -> str:
        # As kubelet names a node that is told its name.
        node = self.node or file.hostname_override.strip().lower()
        node = node or self._likely_node(snapshot)
        if node and snapshot.nodes and node not in snapshot.nodes:
            known = ", ".join(sorted(snapshot.nodes)[:5])
            raise typer.BadParameter(
                f"{node} is none of the objects' nodes ({known})", param_hint="--node"
            )
        return node

    def _likely_node(self, snapshot: Snapshot) -> str:
        """The Node that this is when no name is given: empty where nothing tells."""
        nodes = snapshot.nodes
        if len(nodes) == 1:
            return next(iter(nodes))
        # kube-proxy goes by the host's name alone, which cloud providers' Nodes need not have.
        host = socket.gethostname().strip().lower()
        if host in nodes:
            return host
        there = set(self.node_address)
        likely = [node.name for node in nodes.values() if not there.isdisjoint(node.addresses)]
        return likely[0] if len(likely) == 1 else ""

    def _device(self, detector: Detector, file: Configuration) -> str:
        """The name of the pods' device, or its beginning with a +; empty when ranges tell pods."""
        if detector is Detector.BRIDGE_INTERFACE:
            name = _first(self.pod_bridge_interface, file.detect_local.bridge_interface, default="")
            flag, ending, field = "--pod-bridge-interface", "", "bridgeInterface"
        elif detector is Detector.INTERFACE_NAME_PREFIX:
            name = _first(
                self.pod_interface_name_prefix, file.detect_local.interface_name_prefix, default=""
            )
            flag, ending, field = "--pod-interface-name-prefix", "+", "interfaceNamePrefix"
        else:
            return ""
        if not name:
            raise typer.BadParameter(
                f"{detector} needs the name of a device: detectLocal.{field} must not be empty",
                param_hint=flag,
            )
        return f"{name}{ending}"


@cache
def _configuration(path: Path | None) -> Configuration:
    """Read once, and complained about once."""
    if path is None:
        return Configuration()
    file, notes = read_configuration(path)
    warn(*notes)
    return file


class NodeCommand(TyperCommand):
    """A verb with `NodeFlags`: several addresses may follow one --node-address."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:  # noqa: ANN401
        """See the class. Raises `typer.BadParameter` for kube-proxy's flags that have another name
        here.
        """
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag in KUBE_PROXY_FLAGS:
                raise typer.BadParameter(KUBE_PROXY_FLAGS[flag], param_hint=flag)
        repeated: list[str] = []
        is_list = False
        for argument in arguments:
            is_list = is_list and _is_address(argument)
            is_first = repeated[-1:] == [ADDRESS_FLAG]
            if is_list and not is_first:
                repeated.append(ADDRESS_FLAG)
            is_list |= argument == ADDRESS_FLAG
            repeated.append(argument)
        return super().parse_args(context, repeated)


def takes_node_flags(verb: Callable[..., _T]) -> Callable[..., _T]:
    """Gives a verb the flags of `NodeFlags` in place of its parameter `flags`."""
    signature = inspect.signature(verb)

    @wraps(verb)
    def with_flags(**given: Any) -> _T:  # noqa: ANN401
        own = {field.name: given.pop(field.name) for field in fields(NodeFlags)}
        return verb(flags=NodeFlags(**own), **given)

    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name != "flags":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for field in fields(NodeFlags):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert default is not MISSING
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=field.type,
                )
            )
    with_flags.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_flags


def matches(device: str, name: str) -> bool:
    """Whether a device of this name is meant, in iptables' way: a + stands for any ending."""
    return name.startswith(device[:-1]) if device.endswith("+") else bool(device) and name == device


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def _primary(bind_address: str) -> str:
    """The address that kube-proxy listens on; empty for all addresses."""
    address = parse(parse_address, bind_address, "bindAddress") if bind_address else ""
    return "" if address in ("0.0.0.0", "::") else address


def _first(*values: _T | None, default: _T) -> _T:
    """The first that is not None."""
    return next((value for value in values if value is not None), default)


DEFAULT_BIT: Final = 14
ADDRESS_FLAG: Final = "--node-address"
_NO_API: Final = (
    "kbe-nat does not ask the API server, it reads files of objects: kubectl get "
    "svc,endpointslices,nodes -A -o json > DIR/all.new && mv DIR/all.new DIR/all.json, and give DIR"
)
KUBE_PROXY_FLAGS: Final = {
    "--kubeconfig": _NO_API,
    "--master": _NO_API,
    "--hostname-override": "the name of the node is given by --node",
    "--proxy-mode": "kube-proxy's mode is given by --mode",
    "--iptables-localhost-nodeports": "it is --localhost-nodeports here",
}
"""What is said about flags that people know from kube-proxy."""
NODE_FLAGS: Final = tuple(field.name for field in fields(NodeFlags))
