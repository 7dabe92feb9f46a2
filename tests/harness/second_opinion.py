"""Our dumps of kube-proxy's rules, as the walkers read them: a second opinion on decisions."""

from harness import nft_walker
from harness.clusters import Flow
from harness.rule_walker import Rules
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save, nft
from kbe_nat.model import Snapshot
from kbe_nat.policy.options import Mode
from kbe_nat.policy.plan import CLUSTER_IP, NODE_PORT, Plan


def read_dump(snapshot: Snapshot, plan: Plan, family: Family) -> Rules | nft_walker.Tables:
    """The rules that we dump, as they are walked through."""
    local = frozenset(plan.addresses)
    if plan.options.mode is Mode.NFTABLES:
        return nft_walker.Tables.read(
            nft.dump(plan, family), local, "ip6" if family == Family.IPV6 else "ip"
        )
    return Rules.read(iptables_save.dump(plan, snapshot, family), local)


def is_documented(plan: Plan, flow: Flow) -> bool:
    """docs/differences.md says what we decide otherwise, and why: cluster IPs as sources, and
    another Service's node port at an external address of the node.
    """
    virtual = {address for port in plan.ports for address in port.addresses(CLUSTER_IP)}
    if flow.source in virtual and flow.device is not None:
        return True
    own = [
        port for port in plan.ports if port.protocol == flow.protocol and port.family == flow.family
    ]
    kinds = {
        frontend.kind == NODE_PORT
        for port in own
        for frontend in port.frontends
        if frontend.port == flow.port and frontend.address in ("", flow.destination)
    }
    return len(kinds) == 2 and flow.destination in plan.addresses
