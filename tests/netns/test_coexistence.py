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
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

CASES = ("dual-stack", "many-ports", "session-affinity")
LABEL = "labels: {service.kubernetes.io/service-proxy-name: kbe-nat}"
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
        for family in Family:
            labelled = service(family).replace("name: dns", f"{LABEL}, name: dns", 1)
            made.write(f"dns{family}.yaml", labelled + endpoints(family, "a", "b"))
        yield made


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
    assert {row["name"].split("/")[1][:3] for row in daemon.get("services")} == {"dns"}
    assert "kube-proxy" not in daemon.log, "it is no rival"
    for _ in range(2):
        for front in theirs:
            assert ask(cluster, front) == ["theirs", "theirs"], front
        assert names_of(ask_ours(cluster)) == {
            (protocol, family): {"a", "b"} for protocol in KINDS for family in Family
        }
    served = {(row["destination"][0], row["destination"][1]) for row in daemon.get("flows")}
    assert served == {(VIPS[family], PORT) for family in Family}
    assert foreign_rules(cluster.node) == before
    daemon.end()
    assert foreign_rules(cluster.node) == before
    for front in theirs:
        assert ask(cluster, front) == ["theirs", "theirs"], front
