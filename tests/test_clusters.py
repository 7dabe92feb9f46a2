"""Random clusters: what `explain` says of packets, against a walk through the rules that we dump
for them.

KBE_NAT_CLUSTERS says how many, KBE_NAT_CLUSTERS_SEED with which seed the first one is made. A
cluster alone: `KBE_NAT_CLUSTERS=1 KBE_NAT_CLUSTERS_SEED=57 pytest tests/test_clusters.py`.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import kbe_nat
from harness.clusters import POD_DEVICE, Cluster, Flow, cluster
from harness.rule_walker import End, Walker
from harness.second_opinion import is_documented, read_dump
from kbe_nat.cli.explain import EPHEMERAL_PORT, POD_INTERFACE
from kbe_nat.engine_tables import native_tables
from kbe_nat.explain import OTHER_INTERFACE
from kbe_nat.kubeproxy import iptables_save, nft
from kbe_nat.kubeproxy.diff import differences
from kbe_nat.packets import opening
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.manifests.manifests import read_manifests

COUNT = int(os.environ.get("KBE_NAT_CLUSTERS", "240"))
FIRST = int(os.environ.get("KBE_NAT_CLUSTERS_SEED", "0"))
FLOWS = 60
BLOCK = 40
"""Clusters to a test."""


def decided(engine: kbe_nat.Engine, made: Plan, flow: Flow) -> set[End]:
    """Every way in which a packet may end, for the engine."""
    packet = opening(flow.protocol, (flow.source, EPHEMERAL_PORT), (flow.destination, flow.port))
    is_pod = flow.device == POD_DEVICE and made.options.pod_interface
    number = POD_INTERFACE if is_pod else OTHER_INTERFACE
    told = engine.explain(
        packet, 0, interface=number if flow.device else 0, incomplete_checksum=True
    )
    refused = {End(verdict, place, False) for place, verdict, _ in told.refused}
    served = {End("dnat", place, place in told.masqueraded) for place in told.candidates}
    if served or refused:
        return served | refused
    return {End(told.action, "", False)}


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BLOCK))
def test_the_engine_decides_as_the_rules_do(first: int, tmp_path: Path) -> None:
    wrong = []
    for seed in range(first, min(first + BLOCK, FIRST + COUNT)):
        wrong += list(disagreements(cluster(seed), tmp_path))
    assert not wrong, "\n".join(wrong[:20])


def disagreements(own: Cluster, folder: Path) -> Iterator[str]:
    snapshot = read_manifests([own.write(folder)]).snapshot
    for mode in Mode:
        options = replace(own.options, mode=mode, pod_interfaces=(POD_INTERFACE,))
        made = plan(snapshot, options)
        engine = kbe_nat.Engine(seed=own.seed)
        engine.replace_services(*native_tables(made))
        rules = {number: read_dump(snapshot, made, number) for number in own.families}
        for flow in own.flows(FLOWS):
            walker = Walker(flow.source, flow.destination, flow.port, flow.protocol, flow.device)
            wanted, found = set(rules[flow.family].ends(walker)), decided(engine, made, flow)
            if wanted != found and not is_documented(made, flow):
                ends = f"rules {sorted(wanted)}, engine {sorted(found)}"
                yield f"seed {own.seed}, {mode}: {flow}: {ends}"


def test_a_dump_does_not_differ_from_itself(tmp_path: Path) -> None:
    for seed in range(FIRST, FIRST + 10):
        own = cluster(seed)
        snapshot = read_manifests([own.write(tmp_path)]).snapshot
        for mode in Mode:
            made = plan(snapshot, replace(own.options, mode=mode))
            for number in own.families:
                is_nft = mode is Mode.NFTABLES
                text = (
                    nft.dump(made, number) if is_nft else iptables_save.dump(made, snapshot, number)
                )
                assert differences(text, text) == []
