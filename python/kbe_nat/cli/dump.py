"""`kbe-nat dump`: the rules that kube-proxy would have written for the same state."""

from typing import Annotated, Final

import typer

from kbe_nat.cli.flags.node import NODE_FLAGS, NODE_PARAMETERS, configuration, node_options
from kbe_nat.cli.flags.options import (
    SOCKET,
    PodRange,
    Socket,
    Strict,
    read_objects,
    refuse_given,
    warn,
)
from kbe_nat.cli.flags.parameters import takes_flags
from kbe_nat.daemon.control_socket import ask
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names, form_of, plan_for
from kbe_nat.kubeproxy.dump import dump as dumped
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.policy.options import Mode
from kbe_nat.sources.manifests.defaults import POD_RANGE

FILES: Final = typer.Option(
    "--filename",
    "-f",
    "--manifests",
    help="File or directory of Kubernetes objects, or - for standard input; repeatable.",
)


@takes_flags(node=NODE_FLAGS)
def dump(
    command: typer.Context,
    objects: Annotated[list[str], FILES] = [],  # noqa: B006
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="As whose output the rules are written. Default: that of the mode."
        ),
    ] = None,
    names: Annotated[
        Names,
        typer.Option(
            help="modern: as kube-proxy 1.36. legacy: nat rules of cluster IPs as long ago."
        ),
    ] = Names.MODERN,
    family: Annotated[
        FamilyName | None,
        typer.Option(
            help="Default: ipv4, and for nft also ipv6 where the node or a Service has it."
        ),
    ] = None,
    *,
    node: NodeSettings,
    pod_range: PodRange = POD_RANGE,
    strict: Strict = True,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Of what the running daemon serves, instead of reading objects."
        ),
    ] = False,
    socket: Socket = SOCKET,
) -> None:
    """Write the rules that kube-proxy would have for these objects, in its own form.

    The nft form can be loaded with nft -f.
    """
    if live:
        refuse_given(command, OFFLINE, "it has no effect: with --live the daemon knows it")
        (text,) = ask(socket, "dump", form=form, names=names, family=family)
    elif objects:
        refuse_given(command, ["socket"], "it has no effect without --live")
        refuse_given(
            command, ["reject_with"], "it has no effect: kube-proxy's rules refuse by ICMP"
        )
        snapshot = read_objects(objects, pod_range, is_strict=strict)
        form = form or form_of(node.stated_mode(configuration(node.config)) or Mode.IPTABLES)
        written = Mode.NFTABLES if form is Form.NFT else Mode.IPTABLES
        if node.mode not in (None, written):
            raise typer.BadParameter(f"{form} is not of mode {node.mode}", param_hint="--mode")
        made = plan_for(snapshot, node_options(node, snapshot, written=written), form)
        warn(*made.notes)
        text = dumped(made, snapshot, form, names, family)
    else:
        raise typer.BadParameter("say where the objects are, or --live", param_hint="--filename")
    print(text, end="")


OFFLINE: Final = ("objects", *NODE_PARAMETERS, "pod_range", "strict")
"""What says more about objects that are read."""
