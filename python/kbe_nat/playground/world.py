"""The playground: a cluster of network namespaces that stays until it is taken down.

Its objects are files in a directory that the daemon in the node's namespace follows. A controller
has the pods that the daemon derives too (`kbe_nat.sources.manifests.defaults`): `World` makes a
namespace with a server for each.
"""

import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from kbe_nat.client import ask
from kbe_nat.daemon.rows import StatusRow
from kbe_nat.errors import ControlError, NotFoundError, ObjectError, PlaygroundError
from kbe_nat.extras import require
from kbe_nat.playground.cluster import BRIDGE, NODE_ADDRESS, POD_SERVER, wire_node, wire_pod
from kbe_nat.playground.namespaces import FOLDER, Namespace
from kbe_nat.playground.processes import Process, start
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.manifests.completion import running_pods
from kbe_nat.sources.manifests.documents import documents, parse_documents
from kbe_nat.sources.manifests.manifests import read_manifests
from kbe_nat.sources.objects import ParsedObject, PodObject, namespace


class Pod(msgspec.Struct, frozen=True):
    """A pod that runs."""

    name: str
    space: str
    """The namespace of Kubernetes; that of the network is `network`."""
    address: str
    port: int
    labels: dict[str, str]
    owner: str
    network: str
    device: str
    server: Process
    since: float


class State(msgspec.Struct):
    """The state of a playground, as its file keeps it."""

    daemon: Process
    pods: dict[str, Pod] = {}
    since: dict[str, float] = {}
    """The time at which each object was made, by its file's name."""
    pod_count: int = 0
    """Pods so far, those that ended among them."""


class World:
    """The playground whose state is in one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        suffix = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]
        self._suffix = suffix
        self.node = Namespace(f"kbe-node-{suffix}")
        self.client = Namespace(f"kbe-client-{suffix}")
        self.socket = folder / "control.sock"
        self._objects = folder / "objects"
        self._file = folder / "state.json"
        self._daemon_log = folder / "daemon.log"
        self._mark = folder / "playground"
        """Says that the folder is a playground's, whatever else is in it."""

    def up(self, *options: str) -> None:
        """Make node and client, and start the daemon, with more options of `kbe-nat proxy`. Raises
        `PlaygroundError`.
        """
        if self._file.exists():
            raise PlaygroundError(
                f"{self._folder}: a playground is up; `{self.command('down')}` takes it down"
            )
        require("proxy", "the playground's daemon")
        self.down()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mark.touch()
        self._objects.mkdir()
        self.node.make()
        self.client.make()
        wire_node(self.node, self.client)
        command = (
            *self.node.prefix,
            sys.executable,
            "-m",
            "kbe_nat",
            "proxy",
            "--manifests",
            str(self._objects),
        )
        files = ("--socket", str(self.socket), "--state", str(self._folder / "connections"))
        node = ("--node-address", NODE_ADDRESS, "--node-address", BRIDGE.partition("/")[0])
        daemon = start((*command, *files, *node, *options), self._daemon_log)
        self._write(State(daemon))
        self._wait(lambda: bool(self.status()), "the daemon does not answer")

    def command(self, *words: str) -> str:
        """A command line of `kbe-nat playground` for this one, to be pasted."""
        folder = () if self._folder == STATE else ("--state", str(self._folder))
        return shlex.join(("kbe-nat", "playground", *words, *folder))

    def down(self) -> None:
        """Remove all of it, also the remains of a command that was killed. Raises
        `PlaygroundError` where the folder has something else.
        """
        is_ours = self._mark.exists()
        if not is_ours and self._folder.exists() and not _is_empty(self._folder):
            raise PlaygroundError(
                f"{self._folder}: no playground is in this folder; it is left as it is"
            )
        if self._file.exists():
            state = self._state()
            for process in (state.daemon, *(pod.server for pod in state.pods.values())):
                process.end()
        if FOLDER.exists():
            for path in sorted(FOLDER.iterdir()):
                if path.name.startswith("kbe-") and path.name.endswith(f"-{self._suffix}"):
                    Namespace(path.name).take_away()
        if is_ours:
            shutil.rmtree(self._folder, ignore_errors=True)

    def apply(self, text: str, origin: str) -> list[str]:
        """Make or change the objects of a text. Returns a line for each, in kubectl's words.

        Raises `ObjectError` before anything is changed when one of them is wrong.
        """
        state = self._state()
        lines = []
        for document, item in _parse(text, origin):
            path = self._objects / _file(item)
            content = _write(document)
            before = path.read_text() if path.exists() else None
            outcome = (
                "created" if before is None else "unchanged" if before == content else "configured"
            )
            if outcome == "created":
                state.since[path.name] = time.time()
            lines.append(f'{item.kind.lower()} "{item.value.metadata.name}" {outcome}')
            self._change(state, path, content)
        return lines

    def scale(self, kind: str, name: str, replicas: int) -> str:
        """Change how many pods a controller has."""
        state = self._state()
        path = self._path(kind, name)
        [document] = documents(str(path))
        if "replicas" not in document.get("spec", {}):
            raise PlaygroundError(f"{kind} {name}: it has no replicas to be scaled")
        document["spec"]["replicas"] = replicas
        self._change(state, path, _write(document))
        return f'{document["kind"].lower()} "{name}" scaled'

    def delete(self, kind: str, name: str) -> str:
        """Take an object away, and a controller's pods with it."""
        state = self._state()
        path = self._path(kind, name)
        [document] = documents(str(path))
        state.since.pop(path.name, None)
        self._change(state, path, None)
        return f'{document["kind"].lower()} "{name}" deleted'

    def pods(self) -> list[Pod]:
        """The pods that run, sorted by name."""
        return sorted(self._state().pods.values(), key=lambda pod: pod.name)

    def objects(self, kind: str) -> Iterator[tuple[ParsedObject, float]]:
        """The objects of a kind, and the time at which each was made."""
        since = self._state().since
        for path in sorted(self._objects.glob("*.json")):
            for _, item in _parse(path.read_text(), path.name):
                if item.kind == kind:
                    yield item, since.get(path.name, time.time())

    def plan(self) -> Plan:
        """The node's plan for the objects."""
        return plan(read_manifests([self._objects]).snapshot)

    def network(self, name: str) -> Namespace:
        """The namespace of the node, the client or a pod. Raises `NotFoundError` for another
        name.
        """
        if name in ("node", "client"):
            self._state()
            return self.node if name == "node" else self.client
        pod = self._state().pods.get(name)
        if pod is None:
            raise NotFoundError("pods", name)
        return Namespace(pod.network)

    def log(self, name: str) -> tuple[Path, Process]:
        """The file with the output of the node's daemon, or of a pod's server, and who writes it.
        Raises `NotFoundError` for another name.
        """
        state = self._state()
        if name == "node":
            return self._daemon_log, state.daemon
        if name not in state.pods:
            raise NotFoundError("pods", name)
        return self._server_log(name), state.pods[name].server

    def status(self) -> StatusRow:
        """How the daemon is. Raises `ControlError`."""
        (status,) = ask(self.socket, "status", StatusRow)
        return status

    def _change(self, state: State, path: Path, content: str | None) -> None:
        """Write or remove an object. Pods start before the daemon knows of them, and end after it
        has heard of that.
        """
        others = [
            item
            for other in self._objects.glob("*.json")
            if other != path
            for _, item in _parse(other.read_text(), other.name)
        ]
        new = [item for _, item in _parse(content, path.name)] if content is not None else []
        wanted = {pod.metadata.name: pod for pod in running_pods([*others, *new])}
        for name, pod in wanted.items():
            current = state.pods.get(name)
            if current is None or current.address != pod.status.ip:
                self._make(state, pod)
        generation = self.status().generation
        if content is None:
            path.unlink()
        elif not path.exists() or path.read_text() != content:
            partial = path.with_suffix(".next")
            partial.write_text(content)
            partial.replace(path)
        else:
            return
        self._wait(
            lambda: self.status().generation > generation,
            "the daemon does not take the objects over",
        )
        for name in [name for name in state.pods if name not in wanted]:
            self._end(state.pods.pop(name))
        self._write(state)

    def _make(self, state: State, pod: PodObject) -> None:
        previous = state.pods.pop(pod.metadata.name, None)
        if previous is not None:
            self._end(previous)
        ports = [port.number for container in pod.spec.containers for port in container.ports]
        if not ports:
            raise PlaygroundError(
                f"Pod {pod.metadata.name}: spec.containers[0].ports: a server needs a port"
            )
        state.pod_count += 1
        network = Namespace(f"kbe-pod{state.pod_count}-{self._suffix}")
        network.make()
        wire_pod(self.node, network, pod.status.ip, f"veth{state.pod_count}")
        log = self._server_log(pod.metadata.name)
        server = start((*network.prefix, *POD_SERVER, str(ports[0])), log)
        state.pods[pod.metadata.name] = Pod(
            pod.metadata.name,
            namespace(pod),
            pod.status.ip,
            ports[0],
            pod.metadata.labels,
            pod.metadata.name.rpartition("-")[0],
            network.name,
            f"veth{state.pod_count}",
            server,
            time.time(),
        )
        self._write(state)
        self._wait(
            lambda: "ready" in log.read_text(), f"the server of {pod.metadata.name} does not start"
        )

    def _server_log(self, pod: str) -> Path:
        return self._folder / f"{pod}.log"

    def _end(self, pod: Pod) -> None:
        pod.server.end()
        with suppress(PlaygroundError):
            self.node.call("ip", "link", "delete", pod.device)
        Namespace(pod.network).take_away()

    def _path(self, kind: str, name: str) -> Path:
        full = KINDS.get(kind.lower())
        if full is None:
            raise PlaygroundError(
                f"{kind!r} is no kind of object; there are {', '.join(sorted(set(KINDS)))}"
            )
        path = self._objects / f"{full.lower()}.default.{name}.json"
        self._state()
        if not path.exists():
            raise NotFoundError(f"{full.lower()}s", name)
        return path

    def _state(self) -> State:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=State)
        except FileNotFoundError:
            raise PlaygroundError(
                f"no playground is up; `{self.command('up')}` makes one"
            ) from None
        except msgspec.DecodeError as error:
            raise PlaygroundError(f"{self._file}: {error}") from None

    def _write(self, state: State) -> None:
        partial = self._file.with_suffix(".next")
        partial.write_bytes(msgspec.json.encode(state))
        partial.replace(self._file)

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(ControlError):
                if condition():
                    return
            if self._file.exists() and not self._state().daemon.is_alive:
                break
            time.sleep(0.02)
        log = self._daemon_log
        last = log.read_text().splitlines()[-1:] if log.exists() else []
        raise PlaygroundError(": ".join([complaint, *last]))


def _parse(text: str, origin: str) -> list[tuple[Any, ParsedObject]]:
    """Every object of a text, as the text has it and as it is read. Raises `FileError`,
    `PlaygroundError` or `ObjectError`.
    """
    parsed = []
    present = (
        document for document in parse_documents(text.encode(), origin) if document is not None
    )
    for number, document in enumerate(present, 1):
        place = f"{origin}, document {number}"
        for item in decode(document, place):
            if isinstance(item, ObjectError):
                raise item
            name = (document.get("metadata") or {}).get("name", "")
            if not isinstance(item, ParsedObject) or item.kind not in KINDS.values():
                raise PlaygroundError(
                    f"{place}: {document.get('kind')} {name}: the playground has no such objects"
                )
            if namespace(item.value) != "default":
                raise PlaygroundError(
                    f"{place}: {item.kind} {item.value.metadata.name}: metadata.namespace: only"
                    " default is there"
                )
            parsed.append((document, item))
    return parsed


def _write(document: object) -> str:
    """The text of an object: JSON, in which every value has one type."""
    return json.dumps(document, indent=2) + "\n"


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _file(item: ParsedObject) -> str:
    return f"{item.kind.lower()}.{namespace(item.value)}.{item.value.metadata.name}.json"


KINDS: Final = {
    "svc": "Service",
    "service": "Service",
    "services": "Service",
    "rc": "ReplicationController",
    "replicationcontroller": "ReplicationController",
    "replicationcontrollers": "ReplicationController",
    "rs": "ReplicaSet",
    "replicaset": "ReplicaSet",
    "replicasets": "ReplicaSet",
    "deploy": "Deployment",
    "deployment": "Deployment",
    "deployments": "Deployment",
}
"""Kinds by their names and short names in kubectl."""
STATE: Final = Path("/run/kbe-nat-playground")
"""The folder of the playground that no flag names."""
EXAMPLES: Final = Path(__file__).parent
"""Where rc.yaml and svc.yaml are, the controller and the Service of the walk-through."""
PATIENCE: Final = 15.0
"""Seconds that anything may take to start."""
