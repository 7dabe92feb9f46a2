"""The same walk through the rules of kube-proxy's nftables mode, as `nft list table` shows them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.rule_walker import End, Walker, address_of, end_of, network_of, told
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
    def read(cls, text: str, local: frozenset[str], family: str = "ip") -> "Tables":
        """From nft's text; only its table of one family, "ip" or "ip6", is looked at."""
        chains: dict[str, list[str]] = {}
        sets: dict[str, dict[str, str]] = {}
        lines = normalise(text)
        start = lines.index(f"table {family} kube-proxy {{")
        name = ""
        for line in lines[start : lines.index("}", start)]:
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
        return told(self.ends(packet))

    def ends(self, packet: Walker) -> Iterator[End]:
        """Every way in which a packet may end."""
        is_own = packet.interface is None
        before = "filter-output-pre-dnat" if is_own else "filter-prerouting-pre-dnat"
        for verdict, own in self.hooked(before, packet):
            if verdict:
                yield end_of(verdict, own, is_masqueraded=False)
                continue
            for _, after in self.hooked("nat-output" if is_own else "nat-prerouting", own):
                # What comes from elsewhere and is delivered to the node itself takes no hook behind
                # INPUT.
                is_delivered = not is_own and self.is_local(after.destination)
                last = [] if is_delivered else self.hooked("nat-postrouting", after)
                is_masqueraded = any(name == "masquerade" for name, _ in last)
                yield end_of(self.filtered(after), after, is_masqueraded=is_masqueraded)

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
        """Every end of a chain: "drop", "reject", "dnat", "masquerade", "" after the last rule."""
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
            marked = re.match(
                r"meta mark set meta mark ([|^]) (0x[0-9a-f]+)( masquerade.*)?$", rest
            )
            assert marked, rest
            bit = int(marked[2], 16)
            mark = packet.mark | bit if marked[1] == "|" else packet.mark ^ bit
            yield "masquerade" if marked[3] else "next", replace(packet, mark=mark)
        elif rest.startswith("update @"):
            yield "next", packet
        elif rest.startswith("dnat"):
            for place in re.findall(r"\d+ : ([^,}]+?)(?:,| \})", rest) or [
                rest.removeprefix("dnat to ")
            ]:
                address, _, port = place.replace(" . ", ":").rpartition(":")
                to = address.strip("[]")
                yield "dnat", replace(packet, destination=to, port=int(port), is_translated=True)
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
        """The statement of a rule that matches, with the verdict of a map in its place; None when
        it does not.
        """
        rest = rule
        place = f"{packet.protocol} . {packet.port}"
        while True:
            if rest.startswith("ct state new "):
                rest = rest.removeprefix("ct state new ")
            elif match := re.match(r"ip6? (saddr|daddr) (?!\.)(!= )?(\{[^}]*\}|\S+) ", rest):
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
            elif match := re.match(r"(ip6? daddr \. )?meta l4proto \. th dport vmap @(\S+)", rest):
                return self.sets[match[2]].get(
                    f"{packet.destination} . {place}" if match[1] else place
                )
            elif rest.startswith("ct status dnat "):
                pair = f"{packet.source} . {packet.destination} . {place}"
                is_known = pair in self.sets["hairpin-connections"]
                return "masquerade" if packet.is_translated and is_known else None
            else:
                return rest.removesuffix(" fully-random")

    def holds(self, text: str, address: str) -> bool:
        if text.startswith("@"):
            return address in self.sets[text[1:]]
        return any(_is_within(address, part) for part in text.strip("{} ").split(", "))

    def is_local(self, address: str) -> bool:
        return address in self.local or address_of(address).is_loopback


def _is_within(address: str, part: str) -> bool:
    first, _, last = part.partition("-")
    if last:
        own = int(address_of(address))
        return int(address_of(first)) <= own <= int(address_of(last))
    return address_of(address) in network_of(part)
