"""The same walk through the rules of kube-proxy's nftables mode, as `nft list table` shows them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from rule_walker import Walker, told

from kbe_nat.kubeproxy.normalise import normalise

BLOCK = re.compile(r"\t(chain|set|map) (\S+) \{")
COMMENT = re.compile(r' comment "[^"]*"')


@dataclass(frozen=True)
class Tables:
    """A dump of one family: rules by chain, elements by set or map."""

    chains: dict[str, list[str]]
    sets: dict[str, dict[str, str]]
    """Elements, and what they lead to."""
    local: frozenset[str]

    @classmethod
    def read(cls, text: str, local: frozenset[str]) -> "Tables":
        """From nft's text; only its table for IPv4 is looked at."""
        chains: dict[str, list[str]] = {}
        sets: dict[str, dict[str, str]] = {}
        lines = normalise(text)
        end = lines.index("}")
        name = ""
        for line in lines[:end]:
            block = BLOCK.match(line)
            if block:
                name = block[2]
                if block[1] == "chain":
                    chains[name] = []
                else:
                    sets[name] = {}
            elif line.startswith("\t\t\t"):
                element, _, verdict = COMMENT.sub("", line.strip().rstrip(",")).partition(" : ")
                sets[name][element] = verdict
            elif line.startswith("\t\t") and name in chains:
                chains[name].append(COMMENT.sub("", line.strip()))
        return cls(chains, sets, local)

    def outcome(self, packet: Walker) -> dict[str, Any]:
        """Verdict, destinations and masquerade, in the words of a conformance case."""
        is_own = packet.interface is None
        before = "filter-output-pre-dnat" if is_own else "filter-prerouting-pre-dnat"
        ends: list[tuple[str, Walker, bool]] = []
        for end, own in self.hooked(before, packet):
            if end:
                ends.append((end, own, False))
                continue
            for _, after in self.hooked("nat-output" if is_own else "nat-prerouting", own):
                end = self.filtered(after)
                masqueraded = any(last == "masquerade" for last, _ in self.hooked("nat-postrouting", after))
                ends.append((end, after, masqueraded))
        return told(ends)

    def filtered(self, packet: Walker) -> str:
        hooks = ["filter-output"] if packet.interface is None else []
        if self.is_local(packet.destination):
            hooks.append("filter-input")
        elif packet.interface is not None:
            hooks.append("filter-forward")
        for hook in hooks:
            [(end, _)] = self.hooked(hook, packet)
            if end:
                return end
        return ""

    def hooked(self, chain: str, packet: Walker) -> list[tuple[str, Walker]]:
        return [("" if end == "dnat" else end, after) for end, after in self.walk(chain, packet)]

    def walk(self, chain: str, packet: Walker) -> list[tuple[str, Walker]]:
        """Every end of a chain: "drop", "reject", "dnat", "masquerade", or "" behind the last rule."""
        going_on = [packet]
        ends: list[tuple[str, Walker]] = []
        for rule in self.chains[chain]:
            if rule.startswith(("type ", "comment ")):
                continue
            still = []
            for own in going_on:
                for end, after in self.apply(rule, own):
                    if end == "next":
                        still.append(after)
                    else:
                        ends.append((end, after))
            going_on = still
        return [*ends, *(("", own) for own in going_on)]

    def apply(self, rule: str, packet: Walker) -> Iterator[tuple[str, Walker]]:
        """What a rule does to a packet: "next" where the chain goes on."""
        rest = self.matched(rule, packet)
        if rest is None:
            yield "next", packet
        elif rest.startswith("meta mark set"):
            marked = re.match(r"meta mark set meta mark ([|^]) (0x[0-9a-f]+)( masquerade.*)?$", rest)
            assert marked, rest
            bit = int(marked[2], 16)
            mark = packet.mark | bit if marked[1] == "|" else packet.mark ^ bit
            yield "masquerade" if marked[3] else "next", replace(packet, mark=mark)
        elif rest.startswith("update @"):
            yield "next", packet
        elif rest.startswith("dnat"):
            for place in re.findall(r"\d+ : ([^,}]+?)(?:,| \})", rest) or [rest.removeprefix("dnat to ")]:
                address, _, port = place.replace(" . ", ":").rpartition(":")
                yield "dnat", replace(packet, destination=address, port=int(port), is_translated=True)
        elif rest.startswith("numgen"):
            for chain in re.findall(r"goto (\S+?)(?:,| \})", rest):
                yield from self.walk(chain, packet)
        else:
            verb, _, chain = rest.partition(" ")
            if verb == "jump":
                yield from ((end or "next", after) for end, after in self.walk(chain, packet))
            elif verb == "goto":
                yield from self.walk(chain, packet)
            else:
                yield verb, packet

    def matched(self, rule: str, packet: Walker) -> str | None:
        """The statement of a rule that matches, with the verdict of a map in its place; None when it does not."""
        rest = rule
        place = f"{packet.protocol} . {packet.port}"
        while True:
            if rest.startswith("ct state new "):
                rest = rest.removeprefix("ct state new ")
            elif match := re.match(r"ip (saddr|daddr) (?!\.)(!= )?(\{[^}]*\}|\S+) ", rest):
                address = packet.source if match[1] == "saddr" else packet.destination
                if self.holds(match[3], address) == bool(match[2]):
                    return None
                rest = rest[match.end() :]
            elif match := re.match(r'iifname (!= )?"(\S+)" ', rest):
                own, name = packet.interface or "", match[2]
                is_it = own.startswith(name[:-1]) if name.endswith("*") else own == name
                if is_it == bool(match[1]):
                    return None
                rest = rest[match.end() :]
            elif match := re.match(r"fib (saddr|daddr) type local ", rest):
                if not self.is_local(packet.source if match[1] == "saddr" else packet.destination):
                    return None
                rest = rest[match.end() :]
            elif match := re.match(r"meta l4proto (tcp|udp|sctp) ", rest):
                if match[1] != packet.protocol:
                    return None
                rest = rest[match.end() :]
            elif match := re.match(r"meta mark & (0x[0-9a-f]+) != 0x0 ", rest):
                if not packet.mark & int(match[1], 16):
                    return None
                rest = rest[match.end() :]
            elif match := re.match(r"(ip daddr \. )?meta l4proto \. th dport vmap @(\S+)", rest):
                return self.sets[match[2]].get(f"{packet.destination} . {place}" if match[1] else place)
            elif rest.startswith("ct status dnat "):
                pair = f"{packet.source} . {packet.destination} . {place}"
                is_known = pair in self.sets["hairpin-connections"]
                return "masquerade" if packet.is_translated and is_known else None
            else:
                return rest.removesuffix(" fully-random")

    def holds(self, text: str, address: str) -> bool:
        if text.startswith("@"):
            return address in self.sets[text[1:]]
        return any(ip_address(address) in ip_network(part) for part in text.strip("{} ").split(", "))

    def is_local(self, address: str) -> bool:
        return address in self.local or ip_address(address).is_loopback
