"""One way to ask for the rules that kube-proxy would write, whatever their form."""

from enum import StrEnum

from kbe_nat.errors import ArgumentError
from kbe_nat.family import Family, family_of
from kbe_nat.kubeproxy import iptables_save, legacy, nft
from kbe_nat.model import Snapshot
from kbe_nat.policy import planner
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import Plan


class Form(StrEnum):
    """Whose output the rules are written as."""

    IPTABLES_SAVE = "iptables-save"
    NFT = "nft"


class Names(StrEnum):
    """Which releases of kube-proxy the names are taken from."""

    LEGACY = "legacy"
    MODERN = "modern"


class FamilyName(StrEnum):
    """An address family."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def family(self) -> Family:
        """As in the model."""
        return Family.IPV6 if self is FamilyName.IPV6 else Family.IPV4


def form_of(mode: Mode) -> Form:
    """The form of the rules that kube-proxy writes in a mode."""
    return Form.NFT if mode is Mode.NFTABLES else Form.IPTABLES_SAVE


def plan_for(snapshot: Snapshot, options: Options, form: Form) -> Plan:
    """The plan for rules of a form. The form says the mode, whatever `options` say."""
    return planner.plan(
        snapshot, options.in_mode(Mode.NFTABLES if form is Form.NFT else Mode.IPTABLES)
    )


def dump(
    plan: Plan,
    snapshot: Snapshot,
    form: Form,
    names: Names = Names.MODERN,
    wanted: FamilyName | None = None,
) -> str:
    """The rules of a plan of `plan_for`: of one family as iptables-save shows them (IPv4
    unless `wanted`), or the tables of both as nft does (only those that the node has addresses of).

    Raises `ArgumentError` for old names in nft's form, which old releases did not write.
    """
    if names is Names.LEGACY:
        if form is Form.NFT:
            raise ArgumentError("kube-proxy had no nftables mode when names were of the old form")
        return "".join(
            f"{line}\n" for line in legacy.rules(plan, (wanted or FamilyName.IPV4).family)
        )
    if form is Form.IPTABLES_SAVE:
        return iptables_save.dump(plan, snapshot, (wanted or FamilyName.IPV4).family)
    chosen = [wanted.family] if wanted else families(plan)
    return "\n".join(nft.dump(plan, family) for family in chosen)


def families(plan: Plan) -> list[Family]:
    """IPv4, and IPv6 where the node has addresses of it, or Services do."""
    has_ipv6 = any(family_of(address) == Family.IPV6 for address in plan.addresses)
    return (
        [Family.IPV4, Family.IPV6]
        if has_ipv6 or any(port.family == Family.IPV6 for port in plan.ports)
        else [Family.IPV4]
    )
