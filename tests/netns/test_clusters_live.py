"""Random clusters on real packets: they come out where a walk through kube-proxy's rules for them
ends.
"""

import os
import socket
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from msgspec import structs

import kbe_nat
from harness.clusters import POD_DEVICE, cluster
from harness.lone_node import is_visible, node_for, outcome
from harness.rule_walker import End, Walker, told
from harness.second_opinion import is_documented, read_dump
from harness.stage import DATAPATHS, serving
from kbe_nat.kubeproxy.settings import matches
from kbe_nat.model import Snapshot, Strategy, join_address
from kbe_nat.playground.namespaces import inside
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.address import split_address
from kbe_nat.sources.manifests.manifests import read_manifests

FIRST = int(os.environ.get("KBE_NAT_CLUSTERS_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("KBE_NAT_CLUSTERS", "240")) // 80)
FLOWS = 40


def clientless(snapshot: Snapshot) -> Snapshot:
    """The same without affinity: by turns one client sees every endpoint."""
    services = tuple(structs.replace(own, affinity_seconds=None) for own in snapshot.services)
    return structs.replace(snapshot, services=services)


def is_hidden(end: End, to: str, made: Plan) -> bool:
    """It reaches a program of the node, whose answers are no part of this; or it is translated to
    what it was.
    """
    return end.verdict == "dnat" and (
        end.place == to or split_address(end.place)[0] in made.addresses
    )


@DATAPATHS
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", SEEDS)
def test_packets_come_out_where_the_rules_lead(
    seed: int, mode: Mode, datapath: DatapathKind, tmp_path: Path
) -> None:
    own = cluster(seed)
    snapshot = clientless(read_manifests([own.write(tmp_path)]).snapshot)
    options = replace(own.options, mode=mode, strategy=Strategy.ROUND_ROBIN)
    with node_for(plan(snapshot, options), {POD_DEVICE}) as node:
        device = options.pod_interface
        names = inside(node.name.path, socket.if_nameindex)
        numbers = tuple(number for number, name in names if matches(device, name))
        made = plan(snapshot, replace(options, pod_interfaces=numbers))
        rules = {number: read_dump(snapshot, made, number) for number in own.families}
        wrong, ports = [], count(20_000, 20)
        with serving(node.name, kbe_nat.Engine(seed=seed), made, datapath) as node.serving:
            for flow in own.flows(FLOWS):
                packet = {
                    "from": flow.source,
                    "to": join_address(flow.destination, flow.port),
                    "proto": flow.protocol,
                    "iif": flow.device or "eth0",
                }
                walker = Walker(
                    flow.source, flow.destination, flow.port, flow.protocol, flow.device
                )
                ends = set(rules[flow.family].ends(walker))
                is_seen = is_visible(packet, made) and not any(
                    is_hidden(end, packet["to"], made) for end in ends
                )
                if not is_seen or is_documented(made, flow):
                    continue
                verdicts = {end.verdict for end in ends} - {"drop"} or {"drop"}
                wanted = told(ends) | {"verdict": " and ".join(sorted(verdicts))}
                wanted.pop("refused", None)
                found = outcome(node, made, packet, next(ports))
                if found != wanted:
                    wrong.append(f"{flow}: rules {wanted}, packets {found}")
    assert not wrong, "\n".join(wrong)
