"""The rules that kube-proxy 1.36 writes for a plan in nftables mode, as `nft list table` shows
them.

The text is that of syncProxyRules in pkg/proxy/nftables/proxier.go; `nft -f` loads it. Packets find
their service port by maps from address, protocol and port to a verdict, so that their way does not
grow with the number of Services:

    firewall-ips                          to firewall-...: source ranges, ahead of all NAT
    no-endpoint-services, -nodeports      to drop or reject, in the filter hooks
    service-ips, service-nodeports        to external-..., or at once to service-... or local-...

    external-    masquerade, or the short cut of policy Local
    service-     the choice among all endpoints; local- among those of the node
    endpoint-    one endpoint, only with affinity, whose clients affinity- remembers

A map has one element for a key: of several frontends at one address and port the first one counts,
as in rules. Chains, sets and elements are sorted; rules stand in their order.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network, summarize_address_range
from typing import Final

from kbe_nat.family import Family, family_of
from kbe_nat.kubeproxy.names import nft_base, nft_endpoint_base
from kbe_nat.policy.plan import CLUSTER_IP, LOAD_BALANCER, NODE_PORT, Backend, Plan, PlannedPort


def dump(plan: Plan, family: Family) -> str:
    """The table of one family; services in the order of their names. Cost: linear."""
    return _Dump(plan, family).text()


class _Dump:
    def __init__(self, plan: Plan, family: Family) -> None:
        self.plan = plan
        self.ip = "ip6" if family == Family.IPV6 else "ip"
        self.address_type = "ipv6_addr" if family == Family.IPV6 else "ipv4_addr"
        self.ports = sorted(
            (port for port in plan.ports if port.family == family),
            key=lambda port: (port.name, port.protocol),
        )
        self.family = family
        self.mark = f"{1 << plan.options.masquerade_bit:#x}"
        self.chains: dict[str, list[str]] = {}
        self.sets: dict[str, tuple[list[str], dict[str, str]]] = {}
        """Properties, and elements by their key, of sets and maps, by "set NAME" or "map NAME"."""

    def text(self) -> str:
        self.frame()
        for port in self.ports:
            self.port(port)
        lines = [f"table {self.ip} kube-proxy {{", '\tcomment "rules for kube-proxy"']
        for head, (properties, elements) in sorted(self.sets.items()):
            lines += ["", f"\t{head} {{", *(f"\t\t{line}" for line in properties)]
            if elements:
                joined = ",\n\t\t\t     ".join(sorted(elements.values()))
                lines.append(f"\t\telements = {{ {joined} }}")
            lines.append("\t}")
        for name, rules in sorted(self.chains.items()):
            lines += ["", f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
        return "".join(f"{line}\n" for line in (*lines, "}"))

    def frame(self) -> None:
        """The rules, maps and sets that do not depend on Services."""
        for name, rules in FRAME.items():
            self.chains[name] = [rule.format(ip=self.ip, mark=self.mark) for rule in rules]
        ranges = [text for text in self.plan.service_ranges if family_of(text) == self.family]
        if ranges:
            unallocated = f"{self.ip} daddr {_anonymous(ranges)} drop"
            self.chains["cluster-ips-check"].append(
                f'{unallocated} comment "Drop traffic to unallocated ClusterIPs"'
            )
        outsiders = self.masquerade_rule()
        if outsiders:
            self.chains["services"].insert(0, outsiders)
        for head, (about, kind) in SETS.items():
            kind = kind.format(address=self.address_type)
            self.sets[head] = ([f"type {kind}", f'comment "{about}"'], {})
        local = f"{self.ip} daddr != {'::1' if self.family == Family.IPV6 else '127.0.0.0/8'}"
        ports = "meta l4proto . th dport vmap"
        check, dispatch = local, f"fib daddr type local {local}"
        if self.family not in self.plan.node_ports.wildcard_families:
            check = dispatch = f"{self.ip} daddr @nodeport-ips"
            addresses = [
                text for text in self.plan.node_ports.addresses if family_of(text) == self.family
            ]
            about = 'comment "IPs that accept NodePort traffic"'
            self.sets["set nodeport-ips"] = ([f"type {self.address_type}", about], {})
            self.fill("set nodeport-ips", addresses)
        self.chains["nodeport-endpoints-check"] = [f"{check} {ports} @no-endpoint-nodeports"]
        self.chains["services"].append(f"{dispatch} {ports} @service-nodeports")

    def masquerade_rule(self) -> str:
        """The rule by which connections to cluster IPs are masqueraded; empty when none are."""
        to, mark = f"{self.ip} daddr @cluster-ips", f"meta mark set meta mark | {self.mark}"
        if self.plan.options.masquerade_all:
            return f'{to} {mark} comment "masquerade all clusterIP traffic"'
        foreign = self.detector("!= ")
        why = "masquerade clusterIP traffic from outside cluster"
        return f'{to} {foreign} {mark} comment "{why}"' if foreign else ""

    def detector(self, negation: str) -> str:
        """The match by which pods are known; empty when nothing tells."""
        device = self.plan.options.pod_interface
        if device:
            return f'iifname {negation}"{device.replace("+", "*")}"'
        ranges = [text for text in self.plan.pod_ranges if family_of(text) == self.family]
        return f"{self.ip} saddr {negation}{ranges[0]}" if ranges else ""

    def fill(self, head: str, elements: Iterable[str]) -> None:
        """Elements of a set."""
        self.sets[head][1].update((element, element) for element in elements)

    def lead(self, head: str, key: str, verdict: str, about: str = "") -> None:
        """One element of a map, in place of any that has its key."""
        self.sets[head][1][key] = f"{key}{about} : {verdict}"

    def port(self, port: PlannedPort) -> None:
        base = nft_base(port)
        self.fill("set cluster-ips", port.addresses(CLUSTER_IP))
        # The element that is written last replaces others of its key: the first frontend wins.
        for frontend in reversed(port.frontends):
            is_external = frontend.kind != CLUSTER_IP
            chain = f"external-{base}" if is_external else self.internal_chain(port, base)
            has_endpoints = (
                bool(port.cluster_backends) if is_external else port.has_internal_endpoints
            )
            serves = port.has_external_endpoints if is_external else has_endpoints
            place = f"{port.protocol} . {frontend.port}"
            served, refused = "map service-nodeports", "map no-endpoint-nodeports"
            if frontend.kind != NODE_PORT:
                place = f"{frontend.address} . {place}"
                served, refused = "map service-ips", "map no-endpoint-services"
            if has_endpoints:
                self.lead(served, place, f"goto {chain}")
            if not serves:
                verdict = "drop" if port.cluster_backends else "goto reject-chain"
                self.lead(refused, place, verdict, f' comment "{port.name[:MAX_COMMENT]}"')
        self.firewall(port, base)
        if not port.cluster_backends:
            return
        if port.is_external:
            self.external(port, base)
        if port.uses_cluster:
            self.balance(port, f"service-{base}", port.cluster_backends)
        if port.uses_local and port.local_backends:
            self.balance(port, f"local-{base}", port.local_backends)
        used = (
            *(port.cluster_backends if port.uses_cluster else ()),
            *(port.local_backends if port.uses_local else ()),
        )
        self.fill(
            "set hairpin-connections",
            (
                f"{backend.address} . {backend.address} . {port.protocol} . {backend.port}"
                for backend in used
                if backend.is_local
            ),
        )

    def internal_chain(self, port: PlannedPort, base: str) -> str:
        return f"local-{base}" if port.is_internal_local else f"service-{base}"

    def firewall(self, port: PlannedPort, base: str) -> None:
        """Source ranges of load balancers' addresses, which are checked ahead of all else."""
        addresses = port.addresses(LOAD_BALANCER)
        if not (port.source_ranges and addresses):
            return
        allowed = [*port.source_ranges, *(addresses if port.allows_load_balancer_source else ())]
        self.chains[f"firewall-{base}"] = [f"{self.ip} saddr != {_anonymous(allowed)} drop"]
        for frontend in port.frontends:
            if frontend.kind == LOAD_BALANCER:
                place = f"{frontend.address} . {port.protocol} . {frontend.port}"
                self.lead("map firewall-ips", place, f"goto firewall-{base}")

    def external(self, port: PlannedPort, base: str) -> None:
        """The chain of all packets for external addresses of the service port."""
        mark = f"meta mark set meta mark | {self.mark}"
        all_endpoints = f"goto service-{base}"
        if not port.is_external_local:
            self.chains[f"external-{base}"] = [f'{mark} comment "masquerade"', all_endpoints]
            return
        rules = []
        pods = self.detector("")
        if pods:
            rules.append(f'{pods} {all_endpoints} comment "short-circuit pod traffic"')
        rules.append(f'fib saddr type local {mark} comment "masquerade local traffic"')
        rules.append(f'fib saddr type local {all_endpoints} comment "short-circuit local traffic"')
        if port.local_backends:
            rules.append(f"goto local-{base}")
        self.chains[f"external-{base}"] = rules

    def balance(self, port: PlannedPort, chain: str, backends: tuple[Backend, ...]) -> None:
        """The chain that chooses. Endpoints have chains of their own only with affinity."""
        choice = f"numgen random mod {len(backends)}"
        if port.affinity_seconds is None:
            places = _number(f"{backend.address} . {backend.port}" for backend in backends)
            self.chains[chain] = [
                f"meta l4proto {port.protocol} dnat {self.ip} to {choice} map {places}",
            ]
            return
        rules = []
        bases = [nft_endpoint_base(port, backend) for backend in backends]
        for backend, base in zip(backends, bases, strict=True):
            rules.append(f"{self.ip} saddr @affinity-{base} goto endpoint-{base}")
            self.sets[f"set affinity-{base}"] = (
                [
                    f"type {self.address_type}",
                    "size 65535",
                    "flags dynamic,timeout",
                    f"timeout {port.affinity_seconds}s",
                ],
                {},
            )
            self.chains[f"endpoint-{base}"] = [
                f"update @affinity-{base} {{ {self.ip} saddr }}",
                f"meta l4proto {port.protocol} dnat to {backend}",
            ]
        self.chains[chain] = [
            *rules,
            f"{choice} vmap {_number(f'goto endpoint-{base}' for base in bases)}",
        ]


def _number(values: Iterable[str]) -> str:
    """A map from 0, 1, 2 and so on to these values."""
    return f"{{ {', '.join(f'{index} : {value}' for index, value in enumerate(values))} }}"


def _anonymous(values: Iterable[str]) -> str:
    """A set in a rule, as nft lists it: a value that was written alone without braces, and where a
    range is among several, as one set of intervals, those that overlap or touch as one.
    """
    written = list(values)
    spans = sorted((int(block[0]), int(block[-1])) for block in map(ip_network, written))
    # nft joins ranges that touch, but not single addresses.
    reach = 1 if any("/" in text for text in written) else 0
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and first <= joined[-1][1] + reach:
            start, end = joined.pop()
            joined.append((start, max(end, last)))
        else:
            joined.append((first, last))
    kind = type(ip_network(written[0])[0])
    listed = [_interval(kind(first), kind(last)) for first, last in joined]
    return listed[0] if len(written) == 1 else f"{{ {', '.join(listed)} }}"


def _interval(first: IPv4Address | IPv6Address, last: IPv4Address | IPv6Address) -> str:
    """An address, a prefix where one says the same, or both ends."""
    if first == last:
        return str(first)
    prefixes = list(summarize_address_range(first, last))
    return str(prefixes[0]) if len(prefixes) == 1 else f"{first}-{last}"


def _jumps(*chains: str) -> Iterator[str]:
    return (f"ct state new jump {chain}" for chain in chains)


MAX_COMMENT: Final = 128
"""nft refuses longer comments: kube-proxy, which does not cut them, then programs nothing."""
DESTINATION: Final = "{ip} daddr . meta l4proto . th dport"
FRAME: Final[dict[str, tuple[str, ...]]] = {
    "cluster-ips-check": (
        '{ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"',
    ),
    "filter-forward": (
        "type filter hook forward priority filter; policy accept;",
        *_jumps("service-endpoints-check", "cluster-ips-check"),
    ),
    "filter-input": (
        "type filter hook input priority filter; policy accept;",
        *_jumps("nodeport-endpoints-check", "service-endpoints-check"),
    ),
    "filter-output": (
        "type filter hook output priority filter; policy accept;",
        *_jumps("service-endpoints-check", "cluster-ips-check"),
    ),
    "filter-output-pre-dnat": (
        "type filter hook output priority -110; policy accept;",
        *_jumps("firewall-check"),
    ),
    "filter-prerouting-pre-dnat": (
        "type filter hook prerouting priority -110; policy accept;",
        *_jumps("firewall-check"),
    ),
    "firewall-check": (f"{DESTINATION} vmap @firewall-ips",),
    "masquerading": (
        "meta mark & {mark} != 0x0 meta mark set meta mark ^ {mark} masquerade fully-random",
        "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections "
        "masquerade fully-random",
    ),
    "nat-output": ("type nat hook output priority -100; policy accept;", "jump services"),
    "nat-postrouting": (
        "type nat hook postrouting priority srcnat; policy accept;",
        "jump masquerading",
    ),
    "nat-prerouting": ("type nat hook prerouting priority -100; policy accept;", "jump services"),
    "reject-chain": (
        'comment "helper for @no-endpoint-services / @no-endpoint-nodeports"',
        "reject",
    ),
    "service-endpoints-check": (f"{DESTINATION} vmap @no-endpoint-services",),
    "services": (f"{DESTINATION} vmap @service-ips",),
}
SETS: Final = {
    "map firewall-ips": (
        "destinations that are subject to LoadBalancerSourceRanges",
        "{address} . inet_proto . inet_service : verdict",
    ),
    "map no-endpoint-nodeports": (
        "vmap to drop or reject packets to service nodeports with no endpoints",
        "inet_proto . inet_service : verdict",
    ),
    "map no-endpoint-services": (
        "vmap to drop or reject packets to services with no endpoints",
        "{address} . inet_proto . inet_service : verdict",
    ),
    "map service-ips": (
        "ClusterIP, ExternalIP and LoadBalancer IP traffic",
        "{address} . inet_proto . inet_service : verdict",
    ),
    "map service-nodeports": ("NodePort traffic", "inet_proto . inet_service : verdict"),
    "set cluster-ips": ("Active ClusterIPs", "{address}"),
    "set hairpin-connections": (
        "service hairpin connections",
        "{address} . {address} . inet_proto . inet_service",
    ),
}
