"""A daemon that serves Services with its own label, beside the rules of a running kube-proxy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import PORT, VIPS, Clients, endpoints, named, service
from harness.daemons import Daemon
from harness.kube_proxy_rules import (
    KINDS,
    Frontend,
    ask,
    case_named,
    foreign_rules,
    frontends,
    load,
    serve_endpoints,
    write_objects,
)
from harness.stage import DATAPATHS, add_ipv6
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

CASES = ("dual-stack", "many-ports", "session-affinity")
LABEL = "labels: {service.kubernetes.io/service-proxy-name: kbe-nat}"
V6 = (("ip6tables-save", "ip6tables-restore"),)
STRANGERS = """table inet strangers {
  chain pre {
    type filter hook prerouting priority -160; policy accept;
    tcp dport 1 meta mark set 1
  }
}
"""


@pytest.fixture
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    with Daemon(cluster, tmp_path, request.getfixturevalue("datapath")) as made:
        write_ours(made, f"{LABEL}, ")
        yield made


def write_ours(daemon: Daemon, label: str) -> None:
    """Our Service of each family, with this at the beginning of its metadata."""
    for family in Family:
        labelled = service(family).replace("name: dns", f"{label}name: dns", 1)
        daemon.write(f"dns{family}.yaml", labelled + endpoints(family, "a", "b"))


def ask_ours(cluster: Cluster) -> set[tuple[str, Family, str]]:
    """Who answers new clients of our Service: protocol, family and name of each."""
    answers = set()
    for protocol, kind in KINDS.items():
        for family in Family:
            with Clients(cluster, family, 8, kind) as clients:
                answers |= {(protocol, family, name) for name in clients.asked()}
    return answers


def names_of(answers: set[tuple[str, Family, str]]) -> dict[tuple[str, Family], set[str]]:
    grouped: dict[tuple[str, Family], set[str]] = {}
    for protocol, family, name in answers:
        grouped.setdefault((protocol, family), set()).add(name)
    return grouped


@DATAPATHS
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("name", CASES)
def test_f93_both_proxies_answer_and_their_rules_stay_byte_for_byte(
    daemon: Daemon, datapath: DatapathKind, mode: str, name: str
) -> None:
    cluster, case = daemon.cluster, case_named(name)
    serve_endpoints(cluster, case)
    write_objects(daemon.folder / "objects", case)
    Commands(cluster.node.prefix).run(("nft", "-f", "-"), STRANGERS)
    load(cluster.node, case, mode)
    theirs: list[Frontend] = list(frontends(case))
    assert theirs
    before = foreign_rules(cluster.node)
    assert "KUBE-SERVICES" in before or "table ip kube-proxy" in before
    daemon.start("--service-proxy-name", "kbe-nat", "--mode", mode, "--strategy", "rr")
    assert {row["name"][:3] for row in daemon.get("services")} == {"dns"}
    assert "kube-proxy" not in daemon.log, "it is no rival"
    for _ in range(2):
        for front in theirs:
            assert ask(cluster, front) == ["theirs", "theirs"], front
        assert names_of(ask_ours(cluster)) == {
            (protocol, family): {"a", "b"} for protocol in KINDS for family in Family
        }
    served = {row["destination"] for row in daemon.get("flows")}
    assert served == {join_address(VIPS[family], PORT) for family in Family}
    assert foreign_rules(cluster.node) == before
    daemon.end()
    assert foreign_rules(cluster.node) == before
    for front in theirs:
        assert ask(cluster, front) == ["theirs", "theirs"], front


@DATAPATHS
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_f93_kube_proxy_begins_anew_and_a_label_comes_and_goes(
    daemon: Daemon, datapath: DatapathKind, mode: str
) -> None:
    cluster, case = daemon.cluster, case_named("dual-stack")
    serve_endpoints(cluster, case)
    write_objects(daemon.folder / "objects", case)
    load(cluster.node, case, mode)
    theirs: list[Frontend] = list(frontends(case))
    daemon.start("--service-proxy-name", "kbe-nat", "--mode", mode, "--strategy", "rr")
    both = {(protocol, family): {"a", "b"} for protocol in KINDS for family in Family}

    def assert_theirs() -> None:
        for front in theirs:
            assert ask(cluster, front) == ["theirs", "theirs"], front

    # kube-proxy restarts: all of its rules are flushed, and written once more.
    if mode == "nftables":
        listed = cluster.node.call("nft", "list", "tables").splitlines()
        gone = "".join(f"delete {table}\n" for table in listed if "kube-proxy" in table)
        Commands(cluster.node.prefix).run(("nft", "-f", "-"), gone)
    else:
        for save, restore in (("iptables-save", "iptables-restore"), *V6):
            rules = cluster.node.call(save).splitlines()
            kept = [line for line in rules if "KUBE-" not in line]
            Commands(cluster.node.prefix).run((restore,), "\n".join(kept) + "\n")
    assert names_of(ask_ours(cluster)) == both, "whether kube-proxy has rules or none"
    load(cluster.node, case, mode)
    before = foreign_rules(cluster.node)
    assert_theirs()
    assert names_of(ask_ours(cluster)) == both
    # The Service is kube-proxy's for a while.
    write_ours(daemon, "")
    eventually(lambda: daemon.get("services") == [])
    assert_theirs()
    write_ours(daemon, f"{LABEL}, ")
    eventually(lambda: len(daemon.get("services")) == 4)
    eventually(lambda: names_of(ask_ours(cluster)) == both)
    assert_theirs()
    assert foreign_rules(cluster.node) == before
