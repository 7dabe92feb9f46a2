"""examples/callback.py serves the Service of examples/simpleservice on real packets."""

import sys
from pathlib import Path

import pytest

from harness.stage import OTHER, POD
from kbe_nat.playground.cluster import Cluster

ROOT = Path(__file__).parents[2]
VIP = "172.30.228.255"


def test_the_callback_of_a_few_lines_is_a_nat() -> None:
    pytest.importorskip("netfilterqueue")
    with Cluster((POD, OTHER)) as cluster:
        for match in (("-d", VIP), ("-s", "172.17.0.0/16")):
            rule = ("PREROUTING", *match, "-j", "NFQUEUE", "--queue-num", "7")
            cluster.node.call("iptables", "-t", "mangle", "-A", *rule)
        script, objects = (
            ROOT / "examples/callback.py",
            ROOT / "examples/simpleservice/cluster.yaml",
        )
        process = cluster.node.start((sys.executable, str(script), str(objects)))
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        ask = ("curl", "--silent", "--max-time", "10", f"http://{VIP}/info")
        answers = [cluster.client.call(*ask) for _ in range(16)]
    assert all('"from": "10.0.2.100"' in answer for answer in answers), answers
