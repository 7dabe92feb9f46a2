"""The flags that say for which node packets are decided, and how kube-proxy would be configured on
it.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import click

from kbe_nat.cli.flags.file_options import read_options, table_options
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import split, warn
from kbe_nat.cli.flags.parameters import Flags, TextFlag, parameter_names
from kbe_nat.cli.verb import VerbCommand
from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.config import Configuration, read_configuration
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.kubeproxy.validation import check_cluster_ranges, check_node_port_addresses
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.policy.options import Mode, Options
from kbe_nat.sources.address import is_address, parse_address, parse_range


def parse_label_value(text: str) -> str:
    """The value of a label. Raises ValueError."""
    if not LABEL_VALUE.fullmatch(text):
        raise ValueError(f"{text!r} is no value of a label")
    return text


LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NODE_FLAGS: Final[Flags] = {
    "config": Flag(
        "--config", help="kube-proxy's configuration file (KubeProxyConfiguration v1alpha1)."
    ),
    "node": Flag(
        "--node",
        help="Node to work for. Default: the only Node among the objects, or the one that has this"
        " host's name or a --node-address.",
        names_of="nodes",
    ),
    "node_addresses": TextFlag(
        Flag(
            "--node-address",
            help="Addresses of the node besides loopback. Default: those of this machine for a"
            " daemon, those of the Node object for verbs that read files.",
        ),
        lambda texts: tuple(map(parse_address, texts)),
        list[str],
    ),
    "mode": Flag("--mode", help="kube-proxy's mode that is followed where the two differ."),
    "cluster_ranges": TextFlag(
        Flag(
            "--cluster-cidr",
            help="Range of pod addresses; two, one per family, with a comma between.",
        ),
        lambda text: check_cluster_ranges(split(text)),
    ),
    "local_mode": Flag("--detect-local-mode", help="How pods are recognised."),
    "pod_bridge": Flag(
        "--pod-bridge-interface", help="Device behind which pods are, for BridgeInterface."
    ),
    "pod_device_prefix": Flag(
        "--pod-interface-name-prefix",
        help="Beginning of the names of pods' devices, for InterfaceNamePrefix.",
    ),
    "masquerade_all": Flag(
        "--masquerade-all", help="Masquerade everything that goes to a cluster IP."
    ),
    "node_port_addresses": TextFlag(
        Flag(
            "--nodeport-addresses",
            help="Ranges of addresses that serve node ports, with commas between, or 'primary'."
            " Default: all in iptables mode, 'primary' in nftables mode.",
        ),
        lambda text: check_node_port_addresses(split(text)),
    ),
    "localhost_node_ports": Flag(
        "--localhost-nodeports/--no-localhost-nodeports",
        help="Whether node ports are served on 127.0.0.1, in iptables mode; answers come back only"
        " with route_localnet. Default: they are.",
    ),
    "external_ranges": TextFlag(
        Flag(
            "--external-ip-ranges",
            help="Ranges of external IPs that are served, with commas between. Default: all are.",
        ),
        lambda text: tuple(map(parse_range, split(text))),
    ),
    "reject_with": Flag(
        "--reject-with", help="How TCP is rejected; kube-proxy sends an ICMP error."
    ),
    "proxy_name": TextFlag(
        Flag(
            "--service-proxy-name",
            help="Serve only Services whose label service.kubernetes.io/service-proxy-name has"
            " this value, beside another proxy. Default: those without the label.",
        ),
        parse_label_value,
    ),
}
NODE_PARAMETERS: Final = tuple(parameter_names(NODE_FLAGS))


def node_options(
    node: NodeSettings,
    snapshot: Snapshot,
    strategy: Strategy = Strategy.RANDOM,
    written: Mode | None = None,
) -> Options:
    """See `NodeSettings.options`; the configuration file is read at the first call. Raises
    `FileError` too.
    """
    file = configuration(node.config)
    return _with_file(node, file).options(snapshot, file, strategy, written=written)


def _with_file(node: NodeSettings, file: Configuration) -> NodeSettings:
    """The flags, and for those that were not given our own options about nodes in the file; its
    other options are the daemon's. Raises `FileError`.
    """
    if node.config is None:
        return node
    options = [
        option
        for option in table_options("node", NodeSettings, NODE_FLAGS)
        if option.key in file.kbe_nat and getattr(node, option.path[1]) == option.default
    ]
    values = {option.key: file.kbe_nat[option.key] for option in options}
    settings = read_options(options, values, node.config)
    return replace(node, **{option.path[1]: value for option, value in settings.items()})


@cache
def configuration(path: Path | None) -> Configuration:
    """The file's content, read once; unknown fields are named once. Raises `FileError`."""
    if path is None:
        return Configuration()
    file, notes = read_configuration(path)
    warn(*notes)
    return file


class NodeCommand(VerbCommand):
    """A verb with `NODE_FLAGS`: several addresses may follow one --node-address."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class. Raises `SettingError` for kube-proxy's flags that have another name
        here.
        """
        for argument in args:
            flag = argument.partition("=")[0]
            if flag in KUBE_PROXY_FLAGS and not any(flag in each.opts for each in self.params):
                raise SettingError(flag, KUBE_PROXY_FLAGS[flag])
        repeated: list[str] = []
        is_list = False
        for argument in args:
            is_list = is_list and is_address(argument)
            is_first = repeated[-1:] == [ADDRESS_FLAG]
            if is_list and not is_first:
                repeated.append(ADDRESS_FLAG)
            is_list |= argument == ADDRESS_FLAG
            repeated.append(argument)
        return super().parse_args(ctx, repeated)


ADDRESS_FLAG: Final = "--node-address"
_NO_API: Final = (
    "this verb does not ask the API server, it reads files of objects: kubectl get "
    "svc,endpointslices,nodes -A -o json > DIR/all.new && mv DIR/all.new DIR/all.json, and give DIR"
)
KUBE_PROXY_FLAGS: Final = {
    "--kubeconfig": _NO_API,
    "--master": _NO_API,
    "--hostname-override": "the name of the node is given by --node",
    "--proxy-mode": "kube-proxy's mode is given by --mode",
    "--iptables-localhost-nodeports": "it is --localhost-nodeports here",
}
"""Hints for flags that people know from kube-proxy."""
