"""The daemon as operators run it: a process in the node's namespace, asked by the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.waiting import eventually
from kbe_nat.daemon.checkpoints import Stamp
from kbe_nat.daemon.settings import Settings
from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.rule import DatapathKind

VIP = "172.30.228.255"
COMMAND = (sys.executable, "-m", "kbe_nat")
SEED = (Path(__file__).parents[2] / "examples/simpleservice/cluster.yaml").read_text()
IPTABLES_TABLE = re.compile(r"table ip6? (raw|mangle|nat|filter) |\s")
NOBODY = """apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 172.30.0.9, ports: [{port: 81}]}
"""
BALANCED = """apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.8
  externalTrafficPolicy: Local
  healthCheckNodePort: 30200
  selector: {app: sise}
  ports: [{port: 80, targetPort: 9876, nodePort: 30080}]
---
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 10.0.2.15}]}
"""

COMMANDS = {
    DatapathKind.EVERY_PACKET: ("iptables-restore", "iptables-save", "ipset"),
    DatapathKind.FIRST_PACKET: ("nft",),
    DatapathKind.CACHED: ("nft",),
}


@dataclass
class Daemon:
    """A proxy that runs in the node's namespace."""

    cluster: Cluster
    folder: Path
    datapath: DatapathKind
    process: subprocess.Popen[str] | None = None
    sources: tuple[str, ...] = ()
    """Flags that say where its objects are; without any it follows files in the folder."""
    wrapper: tuple[str, ...] = ()
    """A command that runs it."""

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    @property
    def queues(self) -> range:
        """The numbers of its queues."""
        return Settings().queue_numbers(self.datapath)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def command(self, *arguments: str) -> tuple[str, ...]:
        sources = self.sources or ("--manifests", str(self.folder / "objects"))
        own = (*sources, "--socket", str(self.socket))
        return (
            *self.cluster.node.prefix,
            *self.wrapper,
            *COMMAND,
            "proxy",
            *own,
            "--datapath",
            str(self.datapath),
            "--state",
            str(self.folder / "state"),
            *arguments,
        )

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command(*arguments),
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        eventually(self.is_up)

    def is_up(self) -> bool:
        """Whether it serves, or says which watches of the API server it waits for: the control
        socket answers before the first objects are there.
        """
        status = self.get("status") if self.socket.exists() else {}
        return bool(status and (status["loops"] or status["watches"]))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A proxy that ends by itself."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=30, check=False
        )

    def ask(self, *arguments: str) -> str:
        done = self.ask_all(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask_all(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb with all that it says, failing or not."""
        return subprocess.run(
            [*COMMAND, *arguments, "--socket", str(self.socket)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def get(self, kind: str) -> Any:
        """The rows of a list, or the fields of what is no list."""
        document = json.loads(self.ask("get", kind, "-o", "json"))
        return document.get("items", document)

    def write(self, name: str, text: str) -> None:
        (self.folder / "objects" / name).write_text(text)

    def wait_for_checkpoint(self) -> None:
        """Return once the file of connections is from after this call, so that it has all that
        were there before. At once where the kernel keeps them.
        """
        called = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        state = self.folder / "state"
        if not self.datapath.offloads:
            eventually(
                lambda: state.exists() and Stamp.decode(state.read_bytes()).since_boot > called
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """It does not outlive the test."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> float:
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - started


def curl(cluster: Cluster, url: str = f"{VIP}/info") -> str:
    return cluster.client.call("curl", "-sS", "--max-time", "5", url)


def kernel_rules(cluster: Cluster) -> str:
    """Every rule, chain and set of the node, without counters. Tables without rules are as good as
    none, and one of ours that takes another's place has another number.
    """
    rules = [cluster.node.call(save) for save in ("iptables-save", "ip6tables-save")]
    lines = [line for text in rules for line in text.splitlines()]
    own = [
        line.split(" [")[0]
        for line in lines
        if line.startswith("-A") or (line.startswith(":") and " - " in line)
    ]
    ruleset = cluster.node.call("nft", "--stateless", "list", "ruleset")
    tables = [
        text for text in re.split("(?m)^(?=table )", ruleset) if not IPTABLES_TABLE.match(text)
    ]
    # How a set is laid out in memory is no matter.
    sets = sorted(
        re.sub(r" (initval|hashsize) \S+", "", cluster.node.call("ipset", "save")).splitlines()
    )
    text = "\n".join([*own, *sets, *tables])
    return re.sub(r"kbe-nat-translation-\d", "kbe-nat-translation-N", text)


def pid(own: Daemon) -> int:
    """The daemon itself: nsenter becomes it."""
    assert own.process is not None
    return own.process.pid


def serves(own: Daemon) -> bool:
    with suppress(PlaygroundError):
        return VIP in curl(own.cluster)
    return False


def until_pages_answer(own: Daemon) -> None:
    """They begin when the daemon serves already."""
    page = "http://127.0.0.1:10249/healthz"

    def are_there() -> bool:
        with suppress(PlaygroundError):
            return own.cluster.node.call("curl", "-sS", "--max-time", "20", page) == "ok"
        return False

    eventually(are_there)


def counted(own: Daemon, folder: str) -> int:
    return len(list(Path(f"/proc/{pid(own)}/{folder}").iterdir()))


def patched(folder: Path, program: Path) -> dict[str, str]:
    """The environment of a daemon that runs this when Python starts."""
    (folder / "sitecustomize.py").write_text(program.read_text())
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), *inherited)))}


def broken(folder: Path, names: tuple[str, ...], script: str) -> dict[str, str]:
    """The environment of a daemon whose commands do this first."""
    place = folder / "bin"
    place.mkdir()
    for name in names:
        found = subprocess.run(
            ["which", name], capture_output=True, text=True, check=True
        ).stdout.strip()
        (place / name).write_text(f'#!/bin/sh\n{script}\nexec {found} "$@"\n')
        (place / name).chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}"}
