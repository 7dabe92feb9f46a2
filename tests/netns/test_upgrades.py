"""From what the version before or after has left to this one's and back: connections go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import named
from harness.daemons import Daemon
from harness.kept_state import SECTIONS, later
from harness.new_flows import established, new_flows, objects
from harness.stage import OFFLOADING_DATAPATHS, add_ipv6
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

TABLES = (Path(__file__).parents[1] / "upgrades/tables-1.nft").read_text()
"""The tables of the first version with a frozen checkpoint, for the objects of `objects("a")`,
without the rules that nft cannot write: no daemon of that version runs, so its standby serves.
"""


@pytest.fixture
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    with Daemon(cluster, tmp_path, request.getfixturevalue("datapath")) as made:
        made.write("objects.yaml", objects("a", "b"))
        yield made


def tables(cluster: Cluster) -> list[str]:
    listed = cluster.node.call("nft", "list", "tables").splitlines()
    return [line for line in listed if "kbe-nat-translation-" in line]


@OFFLOADING_DATAPATHS
def test_f10_an_upgrade_and_a_downgrade_of_the_tables_lose_no_connection(
    daemon: Daemon, datapath: DatapathKind
) -> None:
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


@pytest.mark.parametrize("datapath", [DatapathKind.EVERY_PACKET], ids=str)
def test_f10_a_downgrade_and_an_upgrade_of_the_state_lose_no_connection(
    daemon: Daemon, datapath: DatapathKind
) -> None:
    cluster, state = daemon.cluster, daemon.folder / "state"
    daemon.write("objects.yaml", objects("a"))
    daemon.start()
    with established(cluster) as before:
        daemon.end(signal.SIGUSR2)
        # New connections, and those that are not known, would go to both.
        daemon.write("objects.yaml", objects("a", "b"))
        state.write_bytes(later(state.read_bytes()))
        daemon.start("--strategy", "rr")
        for clients in before:
            assert clients.asked() == ["a"] * 10
        with established(cluster, "ab") as since:
            names = [clients.asked() for clients in since]
            assert all(set(each) == {"a", "b"} for each in names)
            daemon.end(signal.SIGUSR2)
            # The frozen part alone, which the version before reads, and any one after it.
            content = state.read_bytes()
            assert not any(section in content for section in SECTIONS)
            daemon.start("--strategy", "rr")
            for clients in before:
                assert clients.asked() == ["a"] * 10
            assert [clients.asked() for clients in since] == names
