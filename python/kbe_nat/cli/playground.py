"""`kbe-nat playground`: the example cluster on this machine, with kubectl's words."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import (
    LISTING_FLAGS,
    SELECTION_FLAGS,
    TEXT,
    ListingSettings,
    SelectionSettings,
)
from kbe_nat.cli.flags.options import parse, warn
from kbe_nat.cli.kinds import Resources, ServiceName, resources
from kbe_nat.cli.listing import place_of, show_kinds
from kbe_nat.cli.playground_views import VIEWS
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.errors import FileError, NotFoundError, PlaygroundError, SettingError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import legacy
from kbe_nat.playground.rows import (
    Row,
    controller_rows,
    endpoints_rows,
    pod_rows,
    service_rows,
    status,
)
from kbe_nat.playground.signals import Interruptions
from kbe_nat.playground.world import EXAMPLES, KINDS, STATE, World
from kbe_nat.policy.selector import Selector, parse_selector
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.objects import ParsedObject

playground = VerbGroup(
    "playground",
    "An example cluster in network namespaces: node, client, pods, and the daemon that serves it.",
)

StateFolder = Annotated[
    Path,
    Flag(
        "--state",
        envvar="KBE_NAT_PLAYGROUND",
        metavar="DIR",
        help="The playground's folder, which `up` makes and `down` removes; the variable"
        " KBE_NAT_PLAYGROUND says it too.",
    ),
]
KINDS_LISTED: Final = tuple(VIEWS)


@playground.verb()
def up(
    state: StateFolder = STATE,
    datapath: Annotated[
        DatapathKind | None,
        Flag(help="As of `kbe-nat proxy`: without it the cheapest that works here."),
    ] = None,
) -> None:
    """Make a node and a client, and start the daemon in the node's namespace.

    Examples:
      kbe-nat playground up
    """
    if os.geteuid() != 0:
        raise PlaygroundError(
            "root is needed: try sudo, or a shell from "
            "`unshare --user --map-root-user --net --mount"
            " sh -c 'mount -t tmpfs tmpfs /run; exec sh'`"
        )
    world = World(state)
    with Interruptions() as interruptions:
        try:
            world.up(*(["--datapath", datapath] if datapath else []))
            with interruptions.obey():
                print(
                    f"The node is {world.node.name}, the client {world.client.name}; "
                    "the daemon serves. Try:"
                )
                for line in first_steps(world):
                    print(f"  {line}")
                print(f"Without --socket: export KBE_NAT_SOCKET={shlex.quote(str(world.socket))}")
        except BaseException as error:
            if not (isinstance(error, PlaygroundError) and "is up" in str(error)):
                world.down()
            raise


@playground.verb()
def down(state: StateFolder = STATE) -> None:
    """Take everything away.

    Examples:
      kbe-nat playground down
    """
    with Interruptions():
        World(state).down()


@playground.verb()
def apply(
    files: Annotated[
        list[Path], Flag("--filename", "-f", help="File of objects, or - ; repeatable.")
    ],
    state: StateFolder = STATE,
) -> None:
    """Make or change Services and controllers; a controller's pods are started.

    Examples:
      kbe-nat playground apply -f examples/simpleservice/rc.yaml -f examples/simpleservice/svc.yaml
    """
    world = World(state)
    for path in files:
        for line in world.apply(read(path), str(path)):
            print(line)


@playground.verb(listing=LISTING_FLAGS, selection=SELECTION_FLAGS)
def get(
    words: Annotated[
        list[str],
        Argument(
            help="pods, services, replicationcontrollers or endpoints, and names.",
            metavar="KIND [NAME...]",
            type=Resources(KINDS_LISTED, has_names=False),
        ),
    ],
    *,
    listing: ListingSettings,
    selection: SelectionSettings,
    state: StateFolder = STATE,
) -> int:
    """List pods, Services, controllers or endpoints, as kubectl does.

    Examples:
      kbe-nat playground get pods -l app=sise -o wide
      kbe-nat playground get svc simpleservice -o yaml
    """
    world = World(state)

    def show_kind(kind: str, names: Sequence[str]) -> None:
        look = partial(rows_of, world, kind, selection, names)
        VIEWS[kind].show(look, listing, place_of(selection), names)

    def documents(kind: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        return VIEWS[kind].documents(partial(rows_of, world, kind, selection, names), listing)

    things = resources(words, KINDS_LISTED, "playground get")
    return show_kinds(things, listing, show_kind, documents)


@playground.verb()
def describe(
    words: Annotated[list[str], Argument("svc or pod, and its name.", "KIND NAME")],
    state: StateFolder = STATE,
) -> None:
    """Show one Service or pod, as kubectl does.

    Examples:
      kbe-nat playground describe svc simpleservice
    """
    print(description(World(state), *kind_and_name(words)), end="")


@playground.verb()
def scale(
    words: Annotated[list[str], Argument("rc, rs or deploy, and its name.", "KIND NAME")],
    replicas: Annotated[int, Flag(min=0, max=200, help="Pods that it is to have.")],
    state: StateFolder = STATE,
) -> None:
    """Change how many pods a controller has.

    Examples:
      kbe-nat playground scale --replicas=2 rc/rcsise
    """
    print(World(state).scale(*kind_and_name(words), replicas))


@playground.verb()
def curl(
    url: Annotated[str, Argument(help="What to ask for.")],
    where: Annotated[str, Flag("--from", help="node, client, or a pod's name.")] = "node",
    state: StateFolder = STATE,
) -> int:
    """Ask a Service or a pod by HTTP, with curl, from inside. Ends with curl's exit code.

    Examples:
      kbe-nat playground curl 172.30.228.255:80/info
      kbe-nat playground curl --from client 172.30.228.255:80/info
    """
    done = subprocess.run(
        (*World(state).network(where).prefix, *CURL, url), stdout=subprocess.PIPE, check=False
    )
    if done.stdout:
        print(done.stdout.decode(errors="replace").strip())
    return done.returncode


@playground.verb()
def exec(
    words: Annotated[
        list[str],
        Argument("node, client, or a pod's name, and what to run there.", "NAME -- COMMAND..."),
    ],
    state: StateFolder = STATE,
) -> int:
    """Run a command in the network of the node, the client or a pod, as `kubectl exec` does. Ends
    with its exit code; the command sees this machine's files.

    Examples:
      kbe-nat playground exec node -- nft list ruleset
      kbe-nat playground exec client -- ping -c 1 172.17.0.3
    """
    name, *command = words
    network = World(state).network(name)
    if not command:
        raise SettingError("COMMAND", "is missing: NAME -- COMMAND...")
    return subprocess.run((*network.prefix, *command), check=False).returncode


@playground.verb()
def logs(
    name: Annotated[str, Argument("A pod's name, or node: the daemon's.")] = "node",
    *,
    is_followed: Annotated[
        bool, Flag("--follow", "-f", help="Show what comes, too, until Ctrl-C or the writer's end.")
    ] = False,
    state: StateFolder = STATE,
) -> int:
    """Show what the daemon, or the server of a pod, has written.

    Examples:
      kbe-nat playground logs
      kbe-nat playground logs -f
    """
    path, writer = World(state).log(name)
    follow = ("--follow", f"--pid={writer.pid}") if is_followed else ()
    return subprocess.run(("tail", "--lines=+1", *follow, path), check=False).returncode


@playground.verb()
def rules(
    service: Annotated[
        str, Argument(help="The Service, as NAME or svc/NAME.", type=ServiceName())
    ] = "simpleservice",
    state: StateFolder = STATE,
) -> None:
    """Show the rules that an old kube-proxy would write for the same state: nat's for cluster IPs.
    Later ones hash other names of chains, as kbe-nat dump --live and explain show them.

    Examples:
      kbe-nat playground rules simpleservice
    """
    lines = kube_proxy_rules(World(state), service)
    if not lines:
        warn(f"kube-proxy's table nat has no rules for {service}: it has no endpoints")
    for line in lines:
        print(line)


@playground.verb()
def delete(
    words: Annotated[list[str], Argument("svc, rc, rs or deploy, and its name.", "KIND NAME")],
    state: StateFolder = STATE,
) -> None:
    """Delete an object; a controller's pods end with it.

    Examples:
      kbe-nat playground delete svc simpleservice
    """
    print(World(state).delete(*kind_and_name(words)))


def first_steps(world: World) -> Iterator[str]:
    """Command lines that make the example's Service and ask it, and the daemon."""
    files = [word for name in ("rc.yaml", "svc.yaml") for word in ("-f", str(EXAMPLES / name))]
    yield world.command("apply", *files)
    yield world.command("curl", EXAMPLE_URL)
    yield shlex.join(("kbe-nat", "get", "svc", "--socket", str(world.socket)))


def kind_and_name(words: Sequence[str]) -> tuple[str, str]:
    """Of KIND NAME, or KIND/NAME. Raises `SettingError`."""
    parts = words[0].split("/") if len(words) == 1 else list(words)
    if len(parts) != len(("KIND", "NAME")) or not all(parts):
        raise SettingError("NAME", f"{' '.join(words)!r} is not KIND NAME or KIND/NAME")
    kind, name = parts
    return kind.lower(), name


def read(path: Path) -> str:
    """The text of a file, or of standard input. Raises `FileError`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def ask(world: World, where: str, url: str) -> str:
    """The output of curl in the namespace of the node, the client or a pod."""
    return world.network(where).call(*CURL, url).strip()


def kube_proxy_rules(world: World, service: str) -> list[str]:
    """The lines of rules for a Service. Raises `NotFoundError` when there is none."""
    if not any(item.value.metadata.name == service for item, _ in world.objects("Service")):
        raise NotFoundError("services", service)
    return legacy.rules(world.plan(), Family.IPV4, f"default/{service}")


def table_of(world: World, kind: str, selector: str = "") -> str:
    """The table of a kind."""
    rows = rows_of(world, kind, SelectionSettings(selector=selector), ())
    return "".join(f"{line}\n" for line in VIEWS[kind].table(rows, TEXT).lines())


def rows_of(
    world: World, kind: str, selection: SelectionSettings, names: Sequence[str]
) -> Iterator[Row]:
    """The rows of a kind. Raises `NotFoundError` behind them for names that none has."""
    rows = _all_rows(world, kind, parse(parse_selector, selection.selector, "--selector"))
    if selection.namespace not in ("", "default"):
        rows = iter(())
    if not names:
        yield from rows
        return
    present = list(rows)
    yield from (row for name in names for row in present if row.name == name)
    if missing := [name for name in names if all(row.name != name for row in present)]:
        raise NotFoundError(kind, *missing)


def _all_rows(world: World, kind: str, selector: Selector) -> Iterator[Row]:
    match kind:
        case "pods":
            return pod_rows(world, selector)
        case "services":
            return service_rows(world, selector)
        case "replicationcontrollers":
            return controller_rows(world, selector)
    return endpoints_rows(world, selector)


def description(world: World, kind: str, name: str) -> str:
    """Everything about a Service or a pod, in kubectl's lines."""
    if kind in ("po", "pod", "pods"):
        match = next((pod for pod in world.pods() if pod.name == name), None)
        if match is None:
            raise NotFoundError("pods", name)
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
    raise NotFoundError("services", name)


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


def _lines(fields: dict[str, str]) -> str:
    return "".join(f"{name + ':':<24}{value}\n" for name, value in fields.items())


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items()) or "<none>"


CURL_SECONDS: Final = "5"
CURL: Final = ("curl", "-sS", "--max-time", CURL_SECONDS)
EXAMPLE_URL: Final = "172.30.228.255:80/info"
"""Of the Service in svc.yaml."""
