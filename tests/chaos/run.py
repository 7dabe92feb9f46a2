"""Everything that may happen to a node, at random and by a seed, while clients watch their flows.

`python -m chaos.run [--minutes 10] [--seed N] [--datapath first-packet] [-o json]`, as root. Ends
with a table, and with 1 if a flow was lost, or moved although its endpoint served, or stayed with
one that did not, or a client was refused.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGUSR2
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from chaos.endpoints import PODS, PORT, SERVICES, Endpoints, address, frontends
from chaos.proxy import Proxy
from harness.programs import DATAGRAM_FLOOD, NAMED_POD
from kbe_nat.family import Family
from kbe_nat.model import Strategy
from kbe_nat.playground.cluster import Cluster
from kbe_nat.policy.plan import Backend
from kbe_nat.rules.rule import DatapathKind

HERE: Final = Path(__file__).parent
FLOWS: Final = 12
"""That stay, by frontend."""
STUCK_SECONDS: Final = 10.0
"""After so long no datagram goes to a pod that does not serve: a restart and a slow machine
included.
"""


@dataclass
class Watch:
    """Reads what the clients tell, and judges it."""

    endpoints: Endpoints
    faults: "Faults"
    started: float
    counts: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    moved: int = 0
    """Flows whose endpoint had stopped serving."""
    lost_datagrams: int = 0

    def follow(self, lines: Iterable[str]) -> None:
        """All that they tell."""
        for line in lines:
            self._read(json.loads(line))

    def _read(self, told: dict[str, Any]) -> None:
        match told["kind"]:
            case "counts":
                self.counts, self.slowest = told["counts"], told["slowest"]
            case "moved":
                self._judge_move(told)
            case "answered":
                pod = int(told["backend"])
                gone = self.endpoints.gone_for(told["service"], pod, told["began"])
                if gone > STUCK_SECONDS:
                    self._note(
                        told,
                        f"{told['service']}: pod {pod} answers, "
                        f"and has not served for {gone:.1f} s",
                    )
            case "datagram-lost":
                self.lost_datagrams += 1
            case kind:
                facts = {name: value for name, value in told.items() if name not in ("kind", "at")}
                self._note(told, f"{kind}: {facts}")

    def _note(self, told: dict[str, Any], what: str) -> None:
        """Something wrong, with what happened before it."""
        at = told["at"]
        before = [
            f"{name} {at - began:.1f} s before"
            for began, name in self.faults.history
            if began <= at
        ]
        self.wrong.append(f"{at - self.started:.1f} s ({', '.join(before[-3:])}): {what}")

    def _judge_move(self, told: dict[str, Any]) -> None:
        pod = int(told["before"])
        # The objects were written a little before the flow's last answer, and read after it.
        since = told["since"] - STUCK_SECONDS
        if told["protocol"] == "udp" and self.endpoints.stopped(
            told["service"], pod, since, told["at"]
        ):
            self.moved += 1
        else:
            self._note(
                told, f"moved: {told['flow']} from pod {pod}, which served, to {told['after']}"
            )


class Faults:
    """What happens, by name."""

    def __init__(
        self, cluster: Cluster, proxy: Proxy, endpoints: Endpoints, chance: random.Random
    ) -> None:
        self._cluster, self._proxy, self._endpoints, self._chance = (
            cluster,
            proxy,
            endpoints,
            chance,
        )
        self._decks: dict[tuple[Callable[[], None], ...], list[Callable[[], None]]] = {}
        self.counts: dict[str, int] = {}
        self.history: list[tuple[float, str]] = []
        """When each began."""
        self.often: tuple[Callable[[], None], ...] = (
            self.strategy,
            self.drain,
            self.list_flows,
            self.look,
        )
        self.rare: tuple[Callable[[], None], ...] = (
            self.kill,
            self.restart,
            self.remove_rules,
            self.change_an_element,
            self.mark_others,
            self.overrun,
            self.stall,
            self.slow_disk,
        )

    def happen(self, faults: tuple[Callable[[], None], ...]) -> None:
        """One of these; each comes once before any comes again."""
        deck = self._decks.setdefault(faults, [])
        if not deck:
            deck.extend(self._chance.sample(faults, len(faults)))
        fault = deck.pop()
        self.history.append((time.monotonic(), fault.__name__))
        self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
        fault()

    def strategy(self) -> None:
        """Another strategy for a Service."""
        name = self._chance.choice(tuple(Strategy))
        self._proxy.ask("strategy", "set", f"default/{self._chance.choice(SERVICES)}", name)

    def drain(self) -> None:
        """A pod gets no new connections for a while."""
        pod = address(self._chance.randrange(PODS), self._chance.choice((Family.IPV4, Family.IPV6)))
        self._proxy.ask("drain", pod, "--no-wait")
        self._proxy.ask("drain", pod, "--undo")

    def list_flows(self) -> None:
        """Lists."""
        for verb in (("get", "flows"), ("conntrack", "-L"), ("get", "endpoints")):
            self._proxy.ask(*verb)

    def look(self) -> None:
        """Verbs that must not touch anything."""
        self._chance.choice((lambda: self._proxy.beside("doctor"), self._proxy.dry_run))()

    def kill(self) -> None:
        """kill -9, and a start a little later."""
        self._proxy.restart(SIGKILL, self._chance.uniform(0, 1))

    def restart(self) -> None:
        """SIGUSR2, and a start a little later."""
        self._proxy.restart(SIGUSR2, self._chance.uniform(0, 1))

    def remove_rules(self) -> None:
        """Somebody flushes a chain or a map of ours."""
        for family, table in self._tables():
            what = self._chance.choice(
                (("chain", "new"), ("map", "backends"), ("set", "frontends"))
            )
            with suppress(Exception):
                self._cluster.node.call("nft", "flush", what[0], family, table, what[1])

    def change_an_element(self) -> None:
        """Somebody gives a backend's number another address."""
        for family, table in self._tables():
            with suppress(Exception):
                listed = self._cluster.node.call(
                    "nft", "-j", "list", "map", family, table, "backends"
                )
                [key, _] = json.loads(listed)["nftables"][-1]["map"]["elem"][0]
                other = address(
                    self._chance.randrange(PODS), Family.IPV4 if family == "ip" else Family.IPV6
                )
                ends = (f"{{ {key:#x} : {other} . {PORT} }}",)
                self._cluster.node.call(
                    "nft", "delete", "element", family, table, "backends", f"{{ {key:#x} }}"
                )
                self._cluster.node.call("nft", "add", "element", family, table, "backends", *ends)

    def mark_others(self) -> None:
        """Somebody writes connmarks over ours for a while."""
        for command in ("iptables", "ip6tables"):
            rule = ("-t", "mangle", "{}", "POSTROUTING", "-j", "CONNMARK", "--set-mark", "0x1")
            self._cluster.node.call(command, *("-A" if word == "{}" else word for word in rule))
        time.sleep(2)
        for command in ("iptables", "ip6tables"):
            rule = ("-t", "mangle", "-D", "POSTROUTING", "-j", "CONNMARK", "--set-mark", "0x1")
            self._cluster.node.call(command, *rule)

    def overrun(self) -> None:
        """More events of the kernel's connection tracking than the daemon can hear of."""
        flood = threading.Thread(target=lambda: self._proxy.stall(1.0))
        flood.start()
        with suppress(Exception):
            self._cluster.client.call(sys.executable, str(DATAGRAM_FLOOD), address(0, Family.IPV4))
        flood.join()

    def stall(self) -> None:
        """The daemon stands still for a moment."""
        self._proxy.stall(self._chance.uniform(0.1, 1))

    def slow_disk(self) -> None:
        """The disk is busy with others."""
        target = self._proxy.folder / "others"
        command = ("dd", "if=/dev/zero", f"of={target}", "bs=1M", "count=64", "oflag=dsync")
        subprocess.run(command, capture_output=True, check=False)
        target.unlink(missing_ok=True)

    def _tables(self) -> list[tuple[str, str]]:
        listed = [
            line.split() for line in self._cluster.node.call("nft", "list", "tables").splitlines()
        ]
        return [
            (words[1], words[2]) for words in listed if words[2].startswith("kbe-nat-translation")
        ]


@contextmanager
def cluster_of_pods() -> Iterator[Cluster]:
    """Both families on all wires, a server in each pod, and rules of somebody else as a CNI has
    them.
    """
    with Cluster(tuple(Backend(address(pod, Family.IPV4), 9876) for pod in range(PODS))) as cluster:
        node, client = cluster.node, cluster.client
        node.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        node.call("ip", "address", "add", "fd00:2::15/64", "dev", "eth0", "nodad")
        node.call("ip", "address", "add", "fd00:17::1/64", "dev", "docker0", "nodad")
        client.call("ip", "address", "add", "fd00:2::100/64", "dev", "eth0", "nodad")
        client.call("ip", "route", "add", "default", "via", "fd00:2::15")
        node.call("ip", "route", "add", "default", "via", "fd00:2::100")
        for number, pod in enumerate(cluster.pods):
            pod.call(
                "ip",
                "address",
                "add",
                f"{address(number, Family.IPV6)}/128",
                "dev",
                "eth0",
                "nodad",
            )
            pod.call("ip", "route", "add", "fd00:17::1", "dev", "eth0")
            pod.call("ip", "route", "add", "default", "via", "fd00:17::1")
            server = pod.start((sys.executable, str(NAMED_POD), str(number), str(PORT)))
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
        for command, pods in (("iptables", "172.17.0.0/16"), ("ip6tables", "fd00:17::/64")):
            outside = ("POSTROUTING", "-s", pods, "!", "-o", "docker0", "-j", "MASQUERADE")
            node.call(command, "-t", "nat", "-A", *outside)
        yield cluster


def run(minutes: float, seed: int, datapath: str, progress: Console) -> dict[str, Any]:
    """The run's outcome."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kbe-chaos-")))
        (folder / "objects").mkdir()
        cluster = stack.enter_context(cluster_of_pods())
        endpoints = Endpoints(folder / "objects", random.Random(f"{seed} endpoints"))
        endpoints.begin()
        proxy = Proxy(cluster.node, folder, datapath)
        proxy.start()
        stack.callback(proxy.kill)
        faults = Faults(cluster, proxy, endpoints, chance)
        started = time.monotonic()
        watch = Watch(endpoints, faults, started)
        command = (sys.executable, str(HERE / "load.py"), json.dumps(frontends()), str(FLOWS))
        load = stack.enter_context(
            subprocess.Popen(
                [*cluster.client.prefix, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert load.stdin is not None and load.stdout is not None
        stack.callback(load.kill)
        is_over = threading.Event()
        threads = [
            threading.Thread(target=watch.follow, args=(load.stdout,)),
            threading.Thread(target=change_until, args=(endpoints, is_over)),
        ]
        for thread in threads:
            thread.start()
        left = minutes * 60
        turn = 0
        while (passed := time.monotonic() - started) < left:
            turn += 1
            faults.happen(faults.rare if turn % 2 == 0 else faults.often)
            proxy.measure(passed)
            progress.print(
                f"{passed:4.0f} s of {left:.0f}: {sum(watch.counts.values())} answers, "
                f"{endpoints.changes} changes, {watch.moved} moved, {len(watch.wrong)} wrong",
                end="\r",
            )
            is_over.wait(0.2)
        is_over.set()
        threads[1].join()
        # What the last change moves is heard of before the clients end.
        is_over.clear()
        is_over.wait(2)
        load.stdin.close()
        load.wait(120)
        threads[0].join()
        stats = proxy.stats()
        code = proxy.end()
        wrong = watch.wrong + ([f"the daemon ended with {code}"] if code else [])
        errors = [line for line in proxy.log.read_text().splitlines() if "Traceback" in line]
        return {
            "seed": seed,
            "datapath": datapath,
            "seconds": round(time.monotonic() - started),
            "answers": watch.counts,
            "slowest": watch.slowest,
            "endpoint-changes": endpoints.changes,
            "faults": faults.counts,
            "starts": proxy.starts,
            "moved-with-their-endpoint": watch.moved,
            "datagrams-sent-again": watch.lost_datagrams,
            "wrong": wrong + errors,
            "daemon": [vars(sample) for sample in proxy.samples],
            "kernel": stats.get("kernel", {}),
        }


def change_until(endpoints: Endpoints, is_over: threading.Event) -> None:
    """Five changes a second."""
    while not is_over.wait(0.2):
        endpoints.change()


def show(told: dict[str, Any], console: Console) -> None:
    """The outcome for people."""
    table = Table(title=f"{told['datapath']}, seed {told['seed']}, {told['seconds']} s")
    for column in ("what", "number"):
        table.add_column(column, justify="left" if column == "what" else "right", overflow="fold")
    for kind, number in sorted(told["answers"].items()):
        if kind in told["slowest"]:
            table.add_row(kind, f"{number} (slowest {told['slowest'][kind]:.2f} s)")
    for name in ("endpoint-changes", "starts", "moved-with-their-endpoint", "datagrams-sent-again"):
        table.add_row(name, str(told[name]))
    for name, number in sorted(told["faults"].items()):
        table.add_row(f"fault: {name}", str(number))
    for name, number in sorted(told["kernel"].items()):
        table.add_row(f"kernel: {name}", str(number))
    table.add_row("lost, refused or moved wrongly", str(len(told["wrong"])))
    console.print(table)
    usage = Table(title="the daemon")
    for column in ("second", "resident kB", "descriptors", "threads"):
        usage.add_column(column, justify="right")
    samples = told["daemon"]
    for sample in samples[:: max(1, len(samples) // 10)]:
        usage.add_row(f"{sample['seconds']:.0f}", *map(str, list(sample.values())[1:]))
    console.print(usage)
    for line in told["wrong"][:50]:
        console.print(line, markup=False)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument(
        "--seed", type=int, help="of all that is random (default: another one each time)"
    )
    parser.add_argument("--datapath", choices=list(map(str, DatapathKind)), default="first-packet")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    flags = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if flags.seed is None else flags.seed
    told = run(flags.minutes, seed, flags.datapath, Console(stderr=True))
    if flags.output == "json":
        print(json.dumps(told, indent=2))
    else:
        show(told, Console())
    return 1 if told["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
