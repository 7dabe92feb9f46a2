"""`kbe-nat playground`: the seed's cluster on this machine, with kubectl's words."""

import os
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.options import Format, OutputFormat
from kbe_nat.cli.output import show_json
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.errors import FileError, PlaygroundError, SettingError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import legacy
from kbe_nat.playground.rows import (
    ControllerRow,
    EndpointsRow,
    PodRow,
    Row,
    ServiceObjectRow,
    controller_rows,
    endpoints_rows,
    pod_rows,
    service_rows,
    status,
)
from kbe_nat.playground.signals import Interruptions
from kbe_nat.playground.world import KINDS, World
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.objects import ParsedObject

playground = VerbGroup(
    "playground",
    "The seed's cluster in network namespaces: node, client, pods, and the daemon that serves it.",
)

StateFolder = Annotated[
    Path,
    Flag("--state", envvar="KBE_NAT_PLAYGROUND", help="Where the playground's state is kept."),
]
STATE: Final = Path("/run/kbe-nat-playground")
Selector = Annotated[
    str, Flag("--selector", "-l", help="Labels, as key=value with commas between.")
]


class Kind(StrEnum):
    """The lists."""

    PODS = "pods"
    SERVICES = "svc"
    CONTROLLERS = "rc"
    ENDPOINTS = "endpoints"


@playground.verb()
def up(
    state: StateFolder = STATE,
    datapath: Annotated[
        DatapathKind,
        Flag(help="As of `kbe-nat proxy`; here every packet goes through the engine."),
    ] = DatapathKind.EVERY_PACKET,
) -> None:
    """Make a node and a client, and start the daemon in the node's namespace."""
    if os.geteuid() != 0:
        raise PlaygroundError(
            "root is needed: try sudo, or a shell from "
            "`unshare --user --map-root-user --net --mount"
            " sh -c 'mount -t tmpfs tmpfs /run; exec sh'`"
        )
    world = World(state)
    with Interruptions() as interruptions:
        try:
            world.up("--datapath", datapath)
            with interruptions.obey():
                print(
                    f"The node is {world.node.name}, the client {world.client.name}; "
                    "the daemon serves."
                )
        except BaseException as error:
            if not (isinstance(error, PlaygroundError) and "is up" in str(error)):
                world.down()
            raise


@playground.verb()
def down(state: StateFolder = STATE) -> None:
    """Take everything away."""
    with Interruptions():
        World(state).down()


@playground.verb()
def apply(
    files: Annotated[
        list[Path], Flag("--filename", "-f", help="File of objects, or - ; repeatable.")
    ],
    state: StateFolder = STATE,
) -> None:
    """Make or change Services and controllers; a controller's pods are started."""
    world = World(state)
    for path in files:
        for line in world.apply(read(path), str(path)):
            print(line)


@playground.verb()
def get(
    kind: Annotated[Kind, Argument(help="What to list.")],
    selector: Selector = "",
    state: StateFolder = STATE,
    output: OutputFormat = Format.TEXT,
) -> None:
    """List pods, Services, controllers or endpoints, as kubectl does."""
    print(listing(World(state), kind, selector, output), end="")


@playground.verb()
def describe(
    kind: Annotated[str, Argument(help="svc or pod.")],
    name: Annotated[str, Argument(help="Its name.")],
    state: StateFolder = STATE,
) -> None:
    """Show one Service or pod, as kubectl does."""
    print(description(World(state), kind, name), end="")


@playground.verb()
def scale(
    target: Annotated[str, Argument(help="As kind/name, such as rc/rcsise.")],
    replicas: Annotated[int, Flag(min=0, max=200, help="Pods that it is to have.")],
    state: StateFolder = STATE,
) -> None:
    """Change how many pods a controller has."""
    kind, slash, name = target.partition("/")
    if not slash:
        raise SettingError("target", f"{target!r} is not kind/name, such as rc/rcsise")
    print(World(state).scale(kind, name, replicas))


@playground.verb()
def curl(
    url: Annotated[str, Argument(help="What to ask for.")],
    where: Annotated[str, Flag("--from", help="node, client, or a pod's name.")] = "node",
    state: StateFolder = STATE,
) -> None:
    """Ask a Service or a pod by HTTP, with curl, from inside."""
    print(ask(World(state), where, url))


@playground.verb()
def rules(
    service: Annotated[str, Argument(help="The Service.")] = "simpleservice",
    state: StateFolder = STATE,
) -> None:
    """Show the rules that kube-proxy would write for the same state, as on the page."""
    print("\n".join(kube_proxy_rules(World(state), service)))


@playground.verb()
def delete(
    kind: Annotated[str, Argument(help="svc, rc, rs or deploy.")],
    name: Annotated[str, Argument(help="Its name.")],
    state: StateFolder = STATE,
) -> None:
    """Delete an object; a controller's pods end with it."""
    print(World(state).delete(kind, name))


def read(path: Path) -> str:
    """The text of a file, or of standard input. Raises `FileError`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def ask(world: World, where: str, url: str) -> str:
    """The output of curl in the namespace of the node, the client or a pod."""
    return world.network(where).call("curl", "-sS", "--max-time", CURL_SECONDS, url).strip()


def kube_proxy_rules(world: World, service: str) -> list[str]:
    """The page's lines for a Service. Raises `PlaygroundError` when there is none."""
    if not any(item.value.metadata.name == service for item, _ in world.objects("Service")):
        raise PlaygroundError(f"Service {service}: there is no such object")
    return legacy.rules(world.plan(), Family.IPV4, f"default/{service}")


def listing(world: World, kind: Kind, selector: str = "", output: Format = Format.TEXT) -> str:
    """The table of a kind."""
    rows = list(rows_of(world, kind, selector))
    if output is Format.JSON:
        show_json(rows)
        return ""
    if not rows:
        return "No resources found.\n"
    return _table([_cells(row) for row in rows])


def rows_of(world: World, kind: Kind, selector: str) -> Iterator[Row]:
    """The rows of a kind; labels select among pods."""
    match kind:
        case Kind.PODS:
            labels = dict(part.partition("=")[::2] for part in selector.split(",") if part)
            return pod_rows(world, labels)
        case Kind.SERVICES:
            return service_rows(world)
        case Kind.CONTROLLERS:
            return controller_rows(world)
        case Kind.ENDPOINTS:
            return endpoints_rows(world)


def description(world: World, kind: str, name: str) -> str:
    """Everything about a Service or a pod, in kubectl's lines."""
    if kind in ("pod", "pods"):
        match = next((pod for pod in world.pods() if pod.name == name), None)
        if match is None:
            raise PlaygroundError(f"Pod {name}: there is no such object")
        return _lines(
            {
                "Name": match.name,
                "Namespace": match.space,
                "Node": "node/10.0.2.15",
                "Start Time": time.strftime(
                    "%a, %d %b %Y %H:%M:%S +0000", time.gmtime(match.since)
                ),
                "Labels": _labels(match.labels),
                "Status": status(match),
                "IP": match.address,
                "Controllers": match.owner,
            }
        )
    if KINDS.get(kind) != "Service":
        raise PlaygroundError(f"{kind!r} cannot be described; svc and pod can")
    for service, _ in world.objects("Service"):
        if service.value.metadata.name == name:
            return _service_lines(world, service)
    raise PlaygroundError(f"Service {name}: there is no such object")


def _service_lines(world: World, service: ParsedObject) -> str:
    spec: Any = service.value.spec  # type: ignore[union-attr]
    ports = [port for port in world.plan().ports if port.service == service.value.metadata.name]
    lines = {
        "Name": service.value.metadata.name,
        "Namespace": "default",
        "Labels": _labels(service.value.metadata.labels),
        "Selector": _labels(spec.selector),
        "Type": spec.type,
        "IP": spec.cluster_ip or ", ".join(sorted({port.frontends[0].address for port in ports})),
    }
    text = _lines(lines)
    for port in ports:
        number = port.frontends[0].port
        text += _lines(
            {
                "Port": f"{port.port_name or '<unset>'} {number}/{port.protocol.upper()}",
                "Endpoints": ",".join(map(str, port.cluster_backends)) or "<none>",
            }
        )
    return text + _lines({"Session Affinity": spec.affinity}) + "No events.\n"


def _cells(row: Row) -> dict[str, str]:
    """A row's columns, as kubectl names and writes them."""
    match row:
        case PodRow():
            return {
                "name": row.name,
                "ready": f"{int(row.ready)}/1",
                "status": row.status,
                "restarts": str(row.restarts),
                "age": _age(row.seconds),
            }
        case ServiceObjectRow():
            return {
                "name": row.name,
                "cluster-ip": row.cluster_ip or "<given>",
                "external-ip": ",".join(row.external_ips) or "<none>",
                "port(s)": ",".join(row.ports),
                "age": _age(row.seconds),
            }
        case ControllerRow():
            return {
                "name": row.name,
                "desired": str(row.desired),
                "current": str(row.current),
                "ready": str(row.ready),
                "age": _age(row.seconds),
            }
        case EndpointsRow():
            return {"name": row.name, "endpoints": ",".join(row.endpoints) or "<none>"}


def _table(rows: list[dict[str, str]]) -> str:
    columns = list(rows[0])
    width = {name: max(len(name), *(len(row[name]) for row in rows)) + 3 for name in columns}
    lines = [{name: name.upper() for name in columns}, *rows]
    return "".join(
        "".join(row[name].ljust(width[name]) for name in columns).rstrip() + "\n" for row in lines
    )


def _lines(fields: dict[str, str]) -> str:
    return "".join(f"{name + ':':<24}{value}\n" for name, value in fields.items())


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items()) or "<none>"


def _age(seconds: int) -> str:
    return (
        f"{seconds}s"
        if seconds < 120
        else f"{seconds // 60}m"
        if seconds < 7200
        else f"{seconds // 3600}h"
    )


CURL_SECONDS: Final = "5"
