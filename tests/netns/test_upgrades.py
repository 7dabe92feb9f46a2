"""From the table of the version before to this one's and back: connections go on, none fails."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import named
from harness.daemons import Daemon
from harness.new_flows import established, new_flows, objects
from harness.stage import add_ipv6
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

TABLES = (Path(__file__).parents[1] / "upgrades/tables-1.nft").read_text()
"""The tables of the first version with a frozen checkpoint, for the objects of `objects("a")`,
without the rules that nft cannot write: no daemon of that version runs, so its standby serves.
"""


@pytest.fixture
def daemon(cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    with Daemon(cluster, tmp_path, DatapathKind.FIRST_PACKET) as made:
        made.write("objects.yaml", objects("a", "b"))
        yield made


def tables(cluster: Cluster) -> list[str]:
    listed = cluster.node.call("nft", "list", "tables").splitlines()
    return [line for line in listed if "kbe-nat-translation-" in line]


def test_f10_an_upgrade_and_a_downgrade_of_the_tables_lose_no_connection(daemon: Daemon) -> None:
    cluster = daemon.cluster
    Commands(cluster.node.prefix).run(("nft", "-f", "-"), TABLES)
    with established(cluster) as before, new_flows(cluster) as flows:
        flows.wait_for("a")
        daemon.start("--strategy", "rr")
        assert len(tables(cluster)) == 2, "those of the version before are gone"
        flows.wait_for("b")
        for clients in before:
            assert clients.asked() == ["a"] * 10
        with established(cluster, "ab") as since:
            names = [clients.asked() for clients in since]
            daemon.end(signal.SIGUSR2)
            # As that version does: its own tables, in place of all whose names begin alike.
            other = TABLES.replace("kbe-nat-translation-0", "kbe-nat-translation-7")
            gone = "".join(f"delete {table}\n" for table in tables(cluster))
            Commands(cluster.node.prefix).run(("nft", "-f", "-"), other + gone)
            flows.wait_for("a")
            for clients in before:
                assert clients.asked() == ["a"] * 10
            assert [clients.asked() for clients in since] == names
        flows.counted()
