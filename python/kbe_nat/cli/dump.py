"""`kbe-nat dump`: the rules that kube-proxy would have written for the same state."""

from typing import Annotated, Final

import click

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.live import LIVE_FLAGS, LiveSettings
from kbe_nat.cli.flags.node import (
    NODE_FLAGS,
    NODE_PARAMETERS,
    NodeCommand,
    configuration,
    node_options,
)
from kbe_nat.cli.flags.objects import (
    OBJECT_FLAGS,
    OBJECT_PARAMETERS,
    ObjectSettings,
    read_objects,
)
from kbe_nat.cli.flags.options import refuse_on_command_line, warn
from kbe_nat.cli.verb import verb
from kbe_nat.client import ask
from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names, form_of, plan_for
from kbe_nat.kubeproxy.dump import dump as dump_rules
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.policy.options import Mode


@verb(kind=NodeCommand, objects=OBJECT_FLAGS, node=NODE_FLAGS, live=LIVE_FLAGS)
def dump(
    command: click.Context,
    form: Annotated[
        Form | None,
        Flag("--format", help="Output format. Default: that of the mode."),
    ] = None,
    names: Annotated[
        Names,
        Flag(help="modern: as kube-proxy 1.36. legacy: nat rules of cluster IPs as long ago."),
    ] = Names.MODERN,
    family: Annotated[
        FamilyName | None,
        Flag(help="Default: ipv4, and for nft also ipv6 where the node or a Service has it."),
    ] = None,
    *,
    objects: ObjectSettings,
    node: NodeSettings,
    live: LiveSettings,
) -> None:
    """Write the rules that kube-proxy would have for these objects, in its own form.

    The nft form can be loaded with nft -f.

    Examples:
      kbe-nat dump -f objects.yaml --node node-1 --format iptables-save
      kbe-nat dump --live --format nft
    """
    if live.is_live:
        refuse_on_command_line(
            command, OFFLINE, "it has no effect: with --live the daemon knows it"
        )
        (text,) = ask(live.socket, "dump", str, form=form, names=names, family=family)
    else:
        refuse_on_command_line(command, ["socket"], "it has no effect without --live")
        refuse_on_command_line(
            command, ["reject_with"], "it has no effect: kube-proxy's rules refuse by ICMP"
        )
        snapshot = read_objects(objects)
        form = form or form_of(node.stated_mode(configuration(node.config)) or Mode.IPTABLES)
        written = Mode.NFTABLES if form is Form.NFT else Mode.IPTABLES
        if node.mode not in (None, written):
            raise SettingError("--mode", f"{form} is not of mode {node.mode}")
        plan = plan_for(snapshot, node_options(node, snapshot, written=written), form)
        warn(*plan.notes)
        text = dump_rules(plan, snapshot, form, names, family)
    print(text, end="")


OFFLINE: Final = (*OBJECT_PARAMETERS, *NODE_PARAMETERS)
"""Flags that say more about objects that are read."""
