"""What rules of kube-proxy's, as iptables-save shows them, do to the first packet of a connection:
every way that it may take, since some rules match by chance. A second opinion on every decision,
from text alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from kbe_nat.kubeproxy.normalise import words

CHANCE = object()


@dataclass(frozen=True)
class Walker:
    """A packet on its way."""

    source: str
    destination: str
    port: int
    protocol: str
    interface: str | None
    """None for the node's own."""
    mark: int = 0
    is_translated: bool = False


@dataclass(frozen=True, order=True)
class End:
    """One way in which a packet may end."""

    verdict: str
    """"dnat", "pass", "reject" or "drop"."""
    place: str
    """Address and port that it goes to, or at which it is refused behind its translation; empty
    where it is not translated.
    """
    is_masqueraded: bool


def end_of(verdict: str, after: Walker, *, is_masqueraded: bool) -> End:
    """`verdict` is "drop", "reject" or, for what goes on, empty."""
    if not after.is_translated:
        return End(verdict or "pass", "", False)
    address = f"[{after.destination}]" if ":" in after.destination else after.destination
    return End(verdict or "dnat", f"{address}:{after.port}", is_masqueraded and not verdict)


def told(ends: Iterable[End]) -> dict[str, Any]:
    """In the words of a conformance case, and with the endpoints at which the packet is refused."""
    outcomes = set(ends)
    refused = sorted(end for end in outcomes if end.place and end.verdict != "dnat")
    served = sorted(end for end in outcomes if end.verdict == "dnat")
    # Chance decides about endpoints only.
    [verdict] = {end.verdict for end in served or outcomes}
    destinations = [end.place for end in served]
    chosen = [end.place for end in served if end.is_masqueraded]
    is_mixed = bool(chosen) and chosen != destinations
    answer: dict[str, Any] = {
        "verdict": verdict,
        "destinations": destinations,
        "masquerade": "mixed" if is_mixed else bool(chosen),
    }
    if refused:
        answer["refused"] = [{"endpoint": end.place, "verdict": end.verdict} for end in refused]
    return answer | ({"masqueraded": chosen} if is_mixed else {})


@cache
def address_of(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)


@cache
def network_of(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


@dataclass(frozen=True)
class Rules:
    """A dump, by table and chain."""

    chains: dict[tuple[str, str], list[list[str]]]
    local: frozenset[str]

    @classmethod
    def read(cls, text: str, local: frozenset[str]) -> "Rules":
        """From iptables-save's text; `local` are the node's addresses besides loopback."""
        chains: dict[tuple[str, str], list[list[str]]] = {}
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A "):
                parts = words(line)
                chains.setdefault((table, parts[1]), []).append(parts[2:])
        return cls(chains, local)

    def outcome(self, packet: Walker) -> dict[str, Any]:
        """Verdict, destinations and masquerade, in the words of a conformance case."""
        return told(self.ends(packet))

    def ends(self, packet: Walker) -> Iterator[End]:
        """Every way in which a packet may end."""
        for after in self.translated(packet):
            verdict = self.filtered(after).lower()
            # What comes from elsewhere and is delivered to the node itself takes INPUT, and no
            # POSTROUTING.
            is_delivered = packet.interface is not None and self.is_local(after.destination)
            last = [] if is_delivered else self.walk("nat", "POSTROUTING", after)
            is_masqueraded = any(name == "MASQUERADE" for name, _ in last)
            yield end_of(verdict, after, is_masqueraded=is_masqueraded)

    def translated(self, packet: Walker) -> Iterator[Walker]:
        """The packet behind the nat table, in every way."""
        hook = "OUTPUT" if packet.interface is None else "PREROUTING"
        return (after for _, after in self.walk("nat", hook, packet))

    def filtered(self, packet: Walker) -> str:
        """What ends it in the filter table; empty where it goes on."""
        hooks = ["OUTPUT"] if packet.interface is None else []
        if self.is_local(packet.destination):
            hooks.append("INPUT")
        elif packet.interface is not None:
            hooks.append("FORWARD")
        for hook in hooks:
            [(end, _)] = self.walk("filter", hook, packet)
            if end in ("DROP", "REJECT"):
                return end
        return ""

    def walk(self, table: str, chain: str, packet: Walker) -> list[tuple[str, Walker]]:
        """Every end of a chain: a target that ends it, or "" behind the last rule."""
        packets = [packet]
        ends: list[tuple[str, Walker]] = []
        for rule in self.chains.get((table, chain), ()):
            going_on = []
            for current in packets:
                matched = self.matches(rule, current)
                if matched is not True:
                    going_on.append(current)
                if not matched:
                    continue
                for end, after in self.jump(table, rule, current):
                    if end:
                        ends.append((end, after))
                    else:
                        going_on.append(after)
            packets = going_on
        finished = [("" if end == "RETURN" else end, after) for end, after in ends]
        return [*finished, *(("", current) for current in packets)]

    def jump(self, table: str, rule: list[str], packet: Walker) -> list[tuple[str, Walker]]:
        if "-j" not in rule:
            return [("", packet)]
        target = rule[rule.index("-j") + 1]
        if target == "MARK":
            value, mask = (int(part, 16) for part in rule[rule.index("--set-xmark") + 1].split("/"))
            return [("", replace(packet, mark=packet.mark & ~mask ^ value))]
        if target == "DNAT":
            address, _, port = rule[rule.index("--to-destination") + 1].rpartition(":")
            to = address.strip("[]")
            return [(target, replace(packet, destination=to, port=int(port), is_translated=True))]
        if target in ("ACCEPT", "DROP", "REJECT", "RETURN", "MASQUERADE"):
            return [(target, packet)]
        return self.walk(table, target, packet)

    def matches(self, rule: list[str], packet: Walker) -> object:
        """True, False, or by chance."""
        result: object = True
        is_negated = False
        parts = iter(rule)
        for word in parts:
            if word == "!":
                is_negated = True
                continue
            outcome: object = True
            if word in ("-s", "-d"):
                address = packet.source if word == "-s" else packet.destination
                outcome = address_of(address) in network_of(next(parts))
            elif word == "-i":
                name = next(parts)
                device = packet.interface or ""
                outcome = device.startswith(name[:-1]) if name.endswith("+") else device == name
            elif word == "-p":
                outcome = next(parts) == packet.protocol
            elif word == "--dport":
                outcome = int(next(parts)) == packet.port
            elif word == "--mark":
                value, mask = (int(part, 16) for part in next(parts).split("/"))
                outcome = packet.mark & mask == value
            elif word in ("--dst-type", "--src-type"):
                assert next(parts) == "LOCAL"
                outcome = self.is_local(
                    packet.destination if word == "--dst-type" else packet.source
                )
            elif word == "--ctstate":
                states = next(parts).split(",")
                outcome = "NEW" in states or ("DNAT" in states and packet.is_translated)
            elif word == "--rcheck":
                outcome = False
            elif word == "--probability":
                next(parts)
                outcome = CHANCE
            elif word == "-j":
                break
            if is_negated:
                outcome, is_negated = not outcome, False
            if outcome is False:
                return False
            if outcome is CHANCE:
                result = CHANCE
        return result

    def is_local(self, address: str) -> bool:
        return address in self.local or address_of(address).is_loopback
