"""kube-proxy's rules of a conformance case in a node's kernel, with pods that answer at its
endpoints.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.clients import Clients
from harness.conformance_cases import CASES, Case, run
from harness.programs import NAMED_POD
from harness.stage import served
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family, family_of
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.commands import Commands
from kbe_nat.sources.address import split_address

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
OWN_MARKS = ("KBE-NAT-", "kbe-nat")
"""In the lines of an iptables listing that are ours."""
AFFINITY = re.compile(r"(\tset affinity-[^{]*\{[^{}]*?)\t\telements = \{[^}]*\}\n")


class Frontend(NamedTuple):
    """A cluster IP's port that kube-proxy serves, with the endpoints that may answer."""

    protocol: str
    address: str
    port: int
    endpoints: tuple[str, ...]

    @property
    def family(self) -> Family:
        return family_of(self.address)


def case_named(name: str) -> Case:
    return next(case for case in CASES if str(case) == name)


def load(node: Namespace, case: Case, mode: str) -> None:
    """Puts the case's golden rules into the kernel, as kube-proxy would have left them."""
    if mode == "nftables":
        Commands(node.prefix).run(("nft", "-f", "-"), (case.folder / "nft.golden").read_text())
        return
    for name in ("iptables", "ip6tables"):
        golden = case.folder / f"{name}-save.golden"
        if golden.exists():
            restore(node, name, golden.read_text())


def load_dump(node: Namespace, objects: Path, mode: str) -> None:
    """Puts the rules into the kernel that kube-proxy would have for these objects."""
    if mode == "nftables":
        text = run("dump", "-f", str(objects), "--format", "nft")
        Commands(node.prefix).run(("nft", "-f", "-"), text)
        return
    for name, family in (("iptables", "ipv4"), ("ip6tables", "ipv6")):
        text = run("dump", "-f", str(objects), "--format", "iptables-save", "--family", family)
        restore(node, name, text)


def restore(node: Namespace, name: str, text: str) -> None:
    """Puts a listing into the kernel. kube-proxy makes the counters that nfacct rules name; not
    every kernel has any.
    """
    lines = [line for line in text.splitlines() if "nfacct" not in line]
    Commands(node.prefix).run((f"{name}-restore", "--noflush"), "\n".join(lines) + "\n")


def foreign_rules(node: Namespace) -> str:
    """Every rule, chain and set that is not ours, as the kernel lists them, without counters."""
    lines = [
        line.split(" [")[0]
        for save in ("iptables-save", "ip6tables-save")
        for line in node.call(save).splitlines()
        if not line.startswith("#") and not any(mark in line for mark in OWN_MARKS)
    ]
    # Tables without rules are as good as none.
    kept = [line for line in lines if line.startswith("-A") or " - " in f"{line} "]
    tables = [
        node.call("nft", "--stateless", "list", *line.split())
        for line in node.call("nft", "list", "tables").splitlines()
        if "kube-proxy" in line or "strangers" in line
    ]
    # Clients come and go in the sets of session affinity.
    return AFFINITY.sub(r"\1", "\n".join([*kept, *tables]))


def frontends(case: Case) -> Iterator[Frontend]:
    """The cluster IPs of a case whose flows kube-proxy translates."""
    for flow in case.about["flows"]:
        expected: dict[str, Any] = flow["expect"]
        address, port = split_address(flow["to"])
        is_cluster_ip = address.startswith(("172.30.", "fd00:172:30:"))
        if expected["verdict"] == "dnat" and is_cluster_ip and flow["proto"] in KINDS:
            yield Frontend(
                flow["proto"], address, port or 0, tuple(sorted(expected["destinations"]))
            )


def serve_endpoints(cluster: Cluster, case: Case) -> None:
    """Lets the first pod answer at every endpoint of the case's cluster IPs with "theirs"."""
    ends = {split_address(end) for front in frontends(case) for end in front.endpoints}
    pod = cluster.pods[0]
    for address in {address for address, _ in ends}:
        # What is deprecated is no source of the pod's other answers.
        bits, more = (128, ("nodad", "preferred_lft", "0")) if ":" in address else (32, ())
        pod.call("ip", "address", "add", f"{address}/{bits}", "dev", "eth0", *more)
        cluster.node.call("ip", "route", "add", f"{address}/{bits}", "dev", "docker0")
    for address, port in ends:
        served(pod, NAMED_POD, "theirs", str(port), address)


def ask(cluster: Cluster, front: Frontend) -> list[str]:
    """Who answers two new clients of a frontend."""
    kind, to = KINDS[front.protocol], (front.address, front.port)
    with Clients(cluster, front.family, 2, kind, to=to) as clients:
        return clients.asked()


def write_objects(folder: Path, case: Case) -> None:
    """The case's objects for a daemon, but for its Node: the daemon's is the host."""
    documents = case.objects.read_text().split("\n---\n")
    kept = [text for text in documents if "\nkind: Node\n" not in f"\n{text}\n"]
    with suppress(PlaygroundError):
        (folder / "theirs.yaml").write_text("\n---\n".join(kept))
