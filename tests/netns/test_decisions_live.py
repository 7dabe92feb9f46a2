"""Decisions about real packets, told after the fact."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.clients import FAMILIES, VIPS, Clients, endpoints, named, service
from harness.daemons import COMMAND, Daemon
from harness.stage import DATAPATHS, add_ipv6
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.address import split_address

NOT_FOUND = 'Error from server (NotFound): services "default/dsn" not found\n'
VERDICTS = {"translate", "reject"}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.fixture
def follower(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    """`kbe-nat decisions -f`, for a minute at most."""
    command = ["timeout", "60", *COMMAND, "decisions", "-f", "-o", "json", "--socket"]
    with subprocess.Popen(
        [*command, str(daemon.socket)], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.terminate()


@pytest.fixture
def daemon(
    cluster: Cluster, tmp_path: Path, datapath: DatapathKind, family: Family
) -> Iterator[Daemon]:
    (tmp_path / "objects").mkdir()
    add_ipv6(cluster)
    named(cluster)
    with Daemon(cluster, tmp_path, datapath) as started:
        started.write("dns.yaml", service(family) + endpoints(family, "a"))
        started.start()
        yield started


def decisions(daemon: Daemon, *flags: str) -> list[Any]:
    rows: list[Any] = json.loads(daemon.ask("decisions", "-o", "json", *flags))["items"]
    return rows


@DATAPATHS
@FAMILIES
def test_a_connection_is_explained_after_the_fact(
    daemon: Daemon, follower: subprocess.Popen[str], family: Family
) -> None:
    for protocol, kind in KINDS.items():
        with Clients(daemon.cluster, family, 1, kind) as clients:
            assert clients.asked() == ["a"]
        served, *_ = [
            row
            for row in decisions(daemon, "--service", f"default/dns{family}", "--since", "5m")
            if row["protocol"] == protocol
        ]
        assert served["verdict"] == "translate"
        assert served["frontend"] == join_address(VIPS[family], 53)
        assert served["backend"].endswith(":9953")
        assert served["endpoint_count"] == 1
        # It may have begun behind the first connection, and follows by the second one.
        assert follower.stdout is not None
        assert any(json.loads(line)["protocol"] == protocol for line in follower.stdout)
    daemon.write("dns.yaml", service(family))
    eventually(lambda: all(row["backends"] == 0 for row in daemon.get("services")))
    with pytest.raises(ConnectionRefusedError):
        Clients(daemon.cluster, family, 1, socket.SOCK_STREAM)
    with Clients(daemon.cluster, family, 1) as clients:
        assert clients.asked() == ["refused"]
    eventually(lambda: len(protocols(decisions(daemon, "--verdict", "reject"))) == len(KINDS))
    # The Service goes, and the answers stay.
    daemon.write("dns.yaml", "")
    eventually(lambda: not daemon.get("services"))
    refused = decisions(daemon, "--verdict", "reject", "--service", f"default/dns{family}")
    assert protocols(refused) == set(KINDS)
    assert {(row["cause"], row["backend"]) for row in refused} == {("no-endpoints", None)}
    client = {split_address(row["client"])[0] for row in refused}
    assert {row["verdict"] for row in decisions(daemon, "--client", *client)} == VERDICTS
    assert "no-endpoints" in daemon.ask("decisions", "--since", "5m")
    misspelt = daemon.ask_all("decisions", "--service", "default/dsn")
    assert (misspelt.returncode, misspelt.stderr) == (1, NOT_FOUND)
    assert "--since: -5m is less" in daemon.ask_all("decisions", "--since", "-5m").stderr
    listed = daemon.ask_all("get", "services", "dsn")
    assert (listed.returncode, listed.stderr) == (1, NOT_FOUND)


def protocols(rows: list[Any]) -> set[str]:
    return {row["protocol"] for row in rows}
