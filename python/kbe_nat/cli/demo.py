"""`kbe-nat demo`: the seed's cluster in network namespaces, its Service answered through the engine."""

import os
import secrets
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from kbe_nat._native import Engine
from kbe_nat.cli.interruption import Interruptions
from kbe_nat.cli.options import Format, OutputFormat, read_objects
from kbe_nat.cli.output import show, show_json
from kbe_nat.cli.summary import summary, tables
from kbe_nat.datapath.native import NativeQueue
from kbe_nat.datapath.thread import LoopThread
from kbe_nat.errors import FileError, PlaygroundError
from kbe_nat.model import Strategy, join_address
from kbe_nat.playground import cluster as wires
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy import CLUSTER_IP, Options, Plan, PortPolicy, plan
from kbe_nat.rules import installed, rule_sets
from kbe_nat.rules.execution import Commands
from kbe_nat.rules.iptables import Iptables
from kbe_nat.tables import Tables

OBJECTS: Final = Path(wires.__file__).with_name("cluster.yaml")
QUEUE: Final = 0
"""The node is a namespace of its own: no other program has queues there."""
INSIDE: Final = "KBE_NAT_DEMO_INSIDE"
"""In the environment of the demo that runs in a user namespace which it made itself."""
REQUEST_SECONDS: Final = "5"


def demo(
    objects: Annotated[
        list[str],
        typer.Option("--filename", "-f", help="Kubernetes objects. Default: the seed's example."),
    ] = [str(OBJECTS)],  # noqa: B006
    requests: Annotated[
        int, typer.Option(min=0, max=100_000, help="Requests to share among the pods.")
    ] = 200,
    strategy: Annotated[
        Strategy, typer.Option(help="How backends are chosen for Services without the annotation.")
    ] = Strategy.RANDOM,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="Makes random choices repeatable.")
    ] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Let pods in network namespaces answer through a Service's virtual IP.

    Makes a node, a client and the pods, diverts the Service's packets to a queue, and translates them. Everything
    is removed at the end, also after Ctrl-C. Needs root, or a system that lets users make namespaces.
    """
    if os.geteuid() != 0:
        _enter_user_namespace()
    seed = secrets.randbits(64) if seed is None else seed
    options = Options(node_addresses=(wires.NODE_ADDRESS, "172.17.0.1"), strategy=strategy)
    made = plan(read_objects(objects), options)
    policy = _served(made)
    engine = Engine(seed=seed)
    engine.replace_services(*Tables().native(made))
    story = _Story(output is Format.TEXT)
    with Interruptions() as interruptions, ExitStack() as stack:
        cluster = stack.enter_context(Cluster(policy.cluster))
        pods = ", ".join(own.address for own in policy.cluster)
        story.tell(
            f"A node {wires.NODE_ADDRESS}, a client {wires.CLIENT_ADDRESS} and the pods {pods}: "
            "each is a network namespace."
        )
        rules = rule_sets(made, (QUEUE, QUEUE))
        queue = stack.enter_context(inside(cluster.node.path, lambda: NativeQueue(QUEUE)))
        loop = stack.enter_context(LoopThread(engine, queue)).loop
        stack.enter_context(installed(Iptables(Commands(cluster.node.prefix)), rules))
        story.tell(
            f"{sum(len(own.rules) for own in rules)} rules divert the packets of "
            f"{made.ports[0].name} to queue {QUEUE}; the pods answer at port {policy.cluster[0].port}.",
            "",
        )
        with interruptions.heeded():
            url = f"{join_address(*_frontend(policy))}/info"
            answers = {
                "node": story.curl("node", cluster.node, url),
                "client": story.curl("client", cluster.client, url),
            }
            started = time.monotonic()
            answered = _ask(cluster.client, url, requests)
            seconds = time.monotonic() - started
            story.tell(f"[client] {requests} more requests: {answered} answered in {seconds:.2f} s", "")
    result: dict[str, Any] = summary(f"queue {QUEUE}", seed, engine.stats())
    result |= {"answers": answers, "requests": requests, "answered": answered, "panics": loop.panics}
    if output is Format.JSON:
        show_json(result)
    else:
        show(*tables(result))
    if answered != requests or not all(answers.values()):
        raise PlaygroundError(f"{requests - answered} of {requests} requests were not answered")


@dataclass(slots=True)
class _Story:
    """What happens, line by line, for people."""

    is_told: bool

    def tell(self, *lines: str) -> None:
        if self.is_told:
            for line in lines:
                print(line, flush=True)

    def curl(self, who: str, namespace: Namespace, url: str) -> str:
        """What the Service answers."""
        self.tell(f"[{who}] $ curl {url}")
        answer = namespace.call("curl", "-sS", "--max-time", REQUEST_SECONDS, url).strip()
        self.tell(answer, "")
        return answer


def _served(made: Plan) -> PortPolicy:
    """The first TCP port that has endpoints and a cluster IP."""
    for policy in made.ports:
        if policy.protocol == "tcp" and policy.cluster and policy.addresses(CLUSTER_IP):
            return policy
    raise FileError("there is no Service with a TCP port, a cluster IP and endpoints in the objects")


def _frontend(policy: PortPolicy) -> tuple[str, int]:
    return next((own.address, own.port) for own in policy.listeners if own.kind == CLUSTER_IP)


def _ask(client: Namespace, url: str, requests: int) -> int:
    """How many of so many requests, each a connection of its own, are answered."""
    if not requests:
        return 0
    codes = ("--write-out", "%{http_code}\n", "--output", "/dev/null")
    said = client.call("curl", "-sS", "--max-time", REQUEST_SECONDS, *codes, f"{url}?[1-{requests}]")
    return said.split().count("200")


def _enter_user_namespace() -> None:
    """Begin again as root of a user namespace, with a mount namespace in which /run is ours."""
    if INSIDE in os.environ:
        raise PlaygroundError("the user namespace does not make us root")
    script = 'mount -t tmpfs tmpfs /run && exec "$0" "$@"'
    own = (sys.executable, "-m", "kbe_nat", *sys.argv[1:])
    command = ("unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", script, *own)
    os.environ[INSIDE] = "1"
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise PlaygroundError(f"root is needed, or unshare: {error}") from None
