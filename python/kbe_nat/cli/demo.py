"""`kbe-nat demo`: the walk-through of a Service, step by step, on real packets."""

import math
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Final

import msgspec

from kbe_nat.cli import playground as verbs
from kbe_nat.cli.explain import ask_daemon, explanation_parts
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings
from kbe_nat.cli.flows import FlowQuestion
from kbe_nat.cli.output import show_document, text_of
from kbe_nat.cli.verb import verb
from kbe_nat.client import ask_rows
from kbe_nat.daemon.rows import EndpointRow
from kbe_nat.errors import PlaygroundError
from kbe_nat.explain import ExplanationRow
from kbe_nat.model import Strategy
from kbe_nat.playground.cluster import CLIENT_ADDRESS
from kbe_nat.playground.privileges import ensure_root
from kbe_nat.playground.signals import Interruptions
from kbe_nat.playground.world import EXAMPLES, STATE, World

SERVICE: Final = "simpleservice"
PORT: Final = "default/simpleservice"
URL: Final = verbs.EXAMPLE_URL
BY_HAND: Final = World(STATE)
"""The playground for which commands are printed: that of `kbe-nat playground up`. The demo's own is
gone at its end.
"""


class DemoRow(msgspec.Struct):
    """`demo`: the results of its steps."""

    answers: dict[str, str]
    """The answer to a request from the node to the pod (pod), and to the Service from each."""
    rules: list[str]
    """kube-proxy's rules for two pods."""
    explained: ExplanationRow
    """The reasons for the fate of a packet to the Service."""
    requests: int
    """Requests that were shared among the pods."""
    answered: int
    """Requests that were answered."""
    shares: dict[str, int]
    """Requests that each backend got."""
    seed: int
    """Of random choices."""
    seconds: float = 0.0
    """From the start to the end, when everything is taken away."""


@verb(document=DOCUMENT_FLAGS)
def demo(
    requests: Annotated[
        int, Flag(min=0, max=100_000, help="Requests to share among the pods.")
    ] = 300,
    strategy: Annotated[Strategy, Flag(help="How backends are chosen.")] = Strategy.RANDOM,
    seed: Annotated[
        int | None, Flag(min=0, max=2**64 - 1, help="Makes random choices repeatable.")
    ] = None,
    *,
    document: DocumentSettings,
) -> None:
    """Walk through a Service on an example cluster, with real packets in network namespaces.

    Makes a cluster, applies a controller and a Service, asks the pod and the Service, scales,
    shares requests, and takes everything away at the end, also after Ctrl-C. Needs root, or a
    system that lets users make namespaces.

    Examples:
      kbe-nat demo
      kbe-nat demo --requests 1000 --strategy wlc --seed 7
    """
    ensure_root("the demo")
    output = document.output
    seed = secrets.randbits(64) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="kbe-nat-demo-"))
    walk = _Walk(World(folder), output.is_table)
    started = time.monotonic()
    with Interruptions() as interruptions:
        try:
            walk.world.up("--seed", str(seed), "--strategy", strategy)
            with interruptions.obey():
                result = walk.page(requests, strategy, seed)
        finally:
            walk.world.down()
    result.seconds = round(time.monotonic() - started, 1)
    if output.is_document:
        show_document(result, output)
    else:
        print(f"Everything is taken away again, after {result.seconds} s. Seed: {seed}.")
    if result.answered != requests:
        raise PlaygroundError(
            f"{requests - result.answered} of {requests} requests were not answered"
        )


@dataclass(slots=True)
class _Walk:
    """The steps of the demonstration: each command, and what it really prints."""

    world: World
    is_told: bool

    def page(self, requests: int, strategy: Strategy, seed: int) -> DemoRow:
        """All of them. Returns their results, for programs."""
        world = self.world
        self.say(
            "A node 10.0.2.15, a client 10.0.2.100 and a bridge for pods: "
            "network namespaces on this machine."
        )
        self.say("The daemon runs in the node's and diverts packets for Services to a queue.")
        self.say("Each command can be pasted later, behind kbe-nat playground up.", "")
        for name in ("rc.yaml", "svc.yaml"):
            self.step(
                f"playground apply -f {quote(str(EXAMPLES / name))}", partial(self.apply, name)
            )
        self.list_pods()
        pod = world.pods()[0]
        direct = f"{pod.address}:{pod.port}/info"
        self.say("The pod itself answers, but its address changes with it:")
        answers = {"pod": self.curl("node", direct)}
        self.say("The Service has an address that stays:")
        self.step("playground get svc", lambda: verbs.table_of(world, "services"))
        self.step(
            f"playground describe svc {SERVICE}", lambda: verbs.description(world, "svc", SERVICE)
        )
        answers |= {"node": self.curl("node", URL), "client": self.curl("client", URL)}
        self.say("This state stands for these rules of kube-proxy:")
        self.rules()
        self.say("A second pod:")
        self.step("playground scale --replicas=2 rc/rcsise", lambda: world.scale("rc", "rcsise", 2))
        self.list_pods()
        rules = self.rules()
        answered, shares = self.share(requests, strategy)
        self.say("Why does a packet go where it goes?")
        explained = self.explain()
        self.say("All resources are deleted:")
        for kind, name in (("svc", SERVICE), ("rc", "rcsise")):
            self.step(f"playground delete {kind} {name}", partial(world.delete, kind, name))
        return DemoRow(answers, rules, explained, requests, answered, shares, seed)

    def apply(self, name: str) -> str:
        return "\n".join(self.world.apply((EXAMPLES / name).read_text(), name))

    def list_pods(self) -> None:
        self.step(
            "playground get pods -l app=sise",
            lambda: verbs.table_of(self.world, "pods", "app=sise"),
        )

    def curl(self, where: str, url: str) -> str:
        return self.step(
            f"playground curl --from {where} {url}", lambda: verbs.ask(self.world, where, url)
        )

    def rules(self) -> list[str]:
        text = self.step(
            "playground rules", lambda: "\n".join(verbs.kube_proxy_rules(self.world, SERVICE))
        )
        return text.splitlines()

    def share(self, requests: int, strategy: Strategy) -> tuple[int, dict[str, int]]:
        """Many requests, each a connection of its own: how many were answered, and how many each
        pod got.
        """
        before = self.flows()
        started = time.monotonic()
        codes = (
            "--write-out",
            "%{http_code}\n",
            "--output",
            "/dev/null",
            "--max-time",
            verbs.CURL_SECONDS,
        )
        codes_seen = ""
        if requests:
            codes_seen = self.world.client.call("curl", "-sS", *codes, f"{URL}?[1-{requests}]")
        answered, seconds = codes_seen.split().count("200"), time.monotonic() - started
        shares = {name: count - before.get(name, 0) for name, count in self.flows().items()}
        self.say(
            f"{requests} requests by the client, {answered} answered in {seconds:.2f} s, "
            f"shared by {strategy}:"
        )
        for name, count in shares.items():
            self.say(f"  {name:<24}{count:>6}")
        if strategy is Strategy.RANDOM and requests:
            # Each goes to either pod with the same probability: a binomial distribution.
            spread = 2 * math.sqrt(requests / 4)
            self.say(
                f"  expected: {requests / 2:.0f} each, give or take {spread:.0f} "
                "(two standard deviations)"
            )
        self.say("")
        return answered, shares

    def explain(self) -> ExplanationRow:
        """The daemon's reasoning for a packet that would open a connection."""
        question = FlowQuestion(f"{CLIENT_ADDRESS}:40000", f"svc/{SERVICE}", None, "eth0")
        packet, explanation = ask_daemon(self.world.socket, question)
        self.step(
            f"explain --live --from {question.source} --to {question.destination} --iif eth0"
            f" --socket {BY_HAND.socket}",
            lambda: text_of(*explanation_parts(packet, explanation)),
        )
        return explanation

    def flows(self) -> dict[str, int]:
        """Connections so far, by backend."""
        return {
            row.backend: row.flows
            for row in ask_rows(self.world.socket, "endpoints", EndpointRow)
            if row.service == PORT
        }

    def step(self, command: str, action: Callable[[], str]) -> str:
        """A command and what it prints."""
        self.say(f"$ kbe-nat {shlex.join(shlex.split(command))}")
        output = action().rstrip("\n")
        self.say(output, "")
        return output

    def say(self, *lines: str) -> None:
        if self.is_told:
            for line in lines:
                print(line, flush=True)
