"""What rules of kube-proxy's, as iptables-save shows them, do to the first packet of a connection: every way
that it may take, since some rules match by chance. A second opinion on every decision, from text alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
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


def told(ends: list[tuple[str, Walker, bool]]) -> dict[str, Any]:
    """In the words of a conformance case: how packets ended ("drop", "reject" or ""), and if masqueraded."""
    verdicts = {end or ("dnat" if after.is_translated else "pass") for end, after, _ in ends}
    [verdict] = verdicts  # Chance decides about endpoints only.
    masqueraded = {}
    if verdict == "dnat":
        for _, after, asked in ends:
            address = f"[{after.destination}]" if ":" in after.destination else after.destination
            masqueraded[f"{address}:{after.port}"] = asked
    destinations = sorted(masqueraded)
    chosen = [place for place in destinations if masqueraded[place]]
    is_mixed = bool(chosen) and chosen != destinations
    answer: dict[str, Any] = {
        "verdict": verdict,
        "destinations": destinations,
        "masquerade": "mixed" if is_mixed else bool(chosen),
    }
    return answer | ({"masqueraded": chosen} if is_mixed else {})


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
        ends = []
        for after in self.translated(packet):
            last = self.walk("nat", "POSTROUTING", after)
            end = self.filtered(after).lower()
            ends.append((end, after, any(name == "MASQUERADE" for name, _ in last)))
        return told(ends)

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
            for own in packets:
                matched = self.matches(rule, own)
                if matched is not True:
                    going_on.append(own)
                if not matched:
                    continue
                for end, after in self.jump(table, rule, own):
                    if end:
                        ends.append((end, after))
                    else:
                        going_on.append(after)
            packets = going_on
        finished = [("" if end == "RETURN" else end, own) for end, own in ends]
        return [*finished, *(("", own) for own in packets)]

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
            found: object = True
            if word in ("-s", "-d"):
                address = packet.source if word == "-s" else packet.destination
                found = ip_address(address) in ip_network(next(parts))
            elif word == "-i":
                name = next(parts)
                own = packet.interface or ""
                found = own.startswith(name[:-1]) if name.endswith("+") else own == name
            elif word == "-p":
                found = next(parts) == packet.protocol
            elif word == "--dport":
                found = int(next(parts)) == packet.port
            elif word == "--mark":
                value, mask = (int(part, 16) for part in next(parts).split("/"))
                found = packet.mark & mask == value
            elif word in ("--dst-type", "--src-type"):
                assert next(parts) == "LOCAL"
                found = self.is_local(packet.destination if word == "--dst-type" else packet.source)
            elif word == "--ctstate":
                states = next(parts).split(",")
                found = "NEW" in states or ("DNAT" in states and packet.is_translated)
            elif word == "--rcheck":
                found = False
            elif word == "--probability":
                next(parts)
                found = CHANCE
            elif word == "-j":
                break
            if is_negated:
                found, is_negated = not found, False
            if found is False:
                return False
            if found is CHANCE:
                result = CHANCE
        return result

    def is_local(self, address: str) -> bool:
        return address in self.local or ip_address(address).is_loopback
