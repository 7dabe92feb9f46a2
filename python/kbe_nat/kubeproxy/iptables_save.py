"""The rules that kube-proxy 1.36 writes for a plan in iptables mode, as iptables-save shows them.

The text is that of syncProxyRules in pkg/proxy/iptables/proxier.go, rule for rule and in its order,
so that a node's own iptables-save can be compared with it line by line. A packet meets these
chains:

    KUBE-SERVICES, KUBE-NODEPORTS   one rule for each frontend (`dispatch`)
    KUBE-FW-                        source ranges of a load balancer; the rest is dropped in filter
    KUBE-EXT-                       external traffic: masquerade, or the short cut of policy Local
    KUBE-SVC-, KUBE-SVL-            the choice among all endpoints, or among those of the node
    KUBE-SEP-                       one endpoint: hairpin mark, affinity, DNAT

`_Dump` first writes the rules that every node has (`frame`), then those of each service port, and
last the jump to node ports, which must stand behind all others. A rule is appended to the list of
its chain; `text` sorts the chains as iptables-save does, and never the rules within one.

Refusals stand in table filter, because REJECT is not allowed in nat. Rules that depend on the
machine are written as on a current kernel: with nfacct, MASQUERADE --random-fully, and the rule
against INVALID packets.
"""

from collections import Counter
from typing import Final

from kbe_nat.family import Family, family_of
from kbe_nat.kubeproxy import probability
from kbe_nat.kubeproxy.names import ENDPOINT, EXTERNAL, FIREWALL, LOCAL, SERVICE, iptables_chain
from kbe_nat.model import Service, Snapshot
from kbe_nat.policy.plan import (
    CLUSTER_IP,
    EXTERNAL_IP,
    LOAD_BALANCER,
    NODE_PORT,
    Backend,
    Plan,
    PlannedPort,
)


def dump(plan: Plan, snapshot: Snapshot, family: Family) -> str:
    """The text for one family, chains sorted, services by their names. Cost: linear."""
    return _Dump(plan, snapshot, family).text()


class _Dump:
    def __init__(self, plan: Plan, snapshot: Snapshot, family: Family) -> None:
        self.plan = plan
        self.family = family
        self.services = {service.key: service for service in snapshot.services}
        self.bits = 128 if family == Family.IPV6 else 32
        self.ports = sorted(
            (port for port in plan.ports if port.family == family),
            key=lambda port: (port.name, port.protocol),
        )
        # Then the rules of endpoints have no comments (proxier.go, largeClusterEndpointsThreshold).
        self.is_large = endpoint_count(snapshot, family, plan.options.proxy_name) > LARGE_CLUSTER
        self.serves_localhost = family == Family.IPV4 and plan.node_ports.loopback
        mark = 1 << plan.options.masquerade_bit
        self.mark = f"{mark:#x}"
        self.tables: dict[str, dict[str, list[str]]] = {
            table: {chain: [] for chain in chains} for table, chains in CHAINS.items()
        }

    def text(self) -> str:
        self.frame()
        for port in self.ports:
            self.port(port)
        self.node_ports()
        lines = []
        for table, chains in self.tables.items():
            builtin = [chain for chain in chains if chain in BUILTIN]
            others = sorted(chain for chain in chains if chain not in BUILTIN)
            lines.append(f"*{table}")
            lines += [
                f":{chain} {'ACCEPT' if chain in BUILTIN else '-'} [0:0]"
                for chain in (*builtin, *others)
            ]
            lines += [
                f"-A {chain} {rule}" for chain in (*builtin, *others) for rule in chains[chain]
            ]
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def add(self, table: str, chain: str, *words: str) -> None:
        self.tables[table].setdefault(chain, []).append(" ".join(word for word in words if word))

    def frame(self) -> None:
        """The rules that do not depend on Services."""
        for table, chain, rule in FRAME:
            if rule == DROP_INVALID and self.plan.options.is_conntrack_liberal:
                continue
            self.add(table, chain, rule.format(mark=self.mark))
        if self.serves_localhost:
            self.add("filter", "KUBE-FIREWALL", BLOCK_LOCALNET)

    def port(self, port: PlannedPort) -> None:
        self.dispatch(port)
        if not port.cluster_backends:
            return
        if port.has_internal_endpoints:
            self.internal_masquerade(port)
        if port.is_external:
            self.external(port)
        if port.is_external and port.source_ranges and port.addresses(LOAD_BALANCER):
            self.firewall(port)
        if port.uses_cluster:
            self.balance(port, SERVICE, port.cluster_backends)
        if port.uses_local:
            self.balance(port, LOCAL, port.local_backends)
        used = (
            *(port.cluster_backends if port.uses_cluster else ()),
            *(port.local_backends if port.uses_local else ()),
        )
        for backend in sorted(set(used), key=str):
            self.endpoint(port, backend)

    def dispatch(self, port: PlannedPort) -> None:
        """The rules by which packets enter the service port's chains, or meet its refusal."""
        times = {
            kind: Counter(self.written_addresses(port, kind))
            for kind in (EXTERNAL_IP, LOAD_BALANCER)
        }
        for frontend in port.frontends:
            if frontend.kind == CLUSTER_IP:
                to = (f"-d {frontend.address}/{self.bits}", f"-p {port.protocol}")
                match = f"-m {port.protocol} --dport {frontend.port}"
                if port.has_internal_endpoints:
                    chain = iptables_chain(LOCAL if port.is_internal_local else SERVICE, port)
                    where = comment(f"{port.name} cluster IP")
                    self.add("nat", "KUBE-SERVICES", *to, where, match, f"-j {chain}")
                else:
                    self.refuse("KUBE-SERVICES", port, *to, match=match)
            elif frontend.kind == NODE_PORT:
                self.dispatch_node_port(port, frontend.port)
            else:
                for _ in range(times[frontend.kind][frontend.address]):
                    self.dispatch_external(port, frontend.kind, frontend.address, frontend.port)
        if port.health_check_node_port:
            match = f"-m tcp --dport {port.health_check_node_port}"
            where = comment(f"{port.name} health check node port")
            self.add("filter", "KUBE-NODEPORTS", "-p tcp", where, match, "-j ACCEPT")

    def written_addresses(self, port: PlannedPort, kind: str) -> list[str]:
        """External or balanced addresses as often as the Service names them, as kube-proxy writes
        their rules.
        """
        served = dict.fromkeys(port.addresses(kind))
        service = self.services.get((port.namespace, port.service), NOBODY)
        texts = service.external_ips if kind == EXTERNAL_IP else service.load_balancer_ips
        return [address for address in texts if address in served] or list(served)

    def dispatch_external(self, port: PlannedPort, kind: str, address: str, entry: int) -> None:
        to = (f"-d {address}/{self.bits}", f"-p {port.protocol}")
        match = f"-m {port.protocol} --dport {entry}"
        is_balancer = kind == LOAD_BALANCER
        has_firewall = is_balancer and bool(port.source_ranges) and bool(port.cluster_backends)
        firewall = iptables_chain(FIREWALL, port)
        if port.cluster_backends:
            where = comment(f"{port.name} {'loadbalancer' if is_balancer else 'external'} IP")
            chain = firewall if has_firewall else iptables_chain(EXTERNAL, port)
            self.add("nat", "KUBE-SERVICES", *to, where, match, f"-j {chain}")
        if has_firewall:
            where = comment(f"{port.name} traffic not accepted by {firewall}")
            self.add("filter", "KUBE-PROXY-FIREWALL", *to, where, match, "-j DROP")
        if not port.has_external_endpoints:
            self.refuse("KUBE-EXTERNAL-SERVICES", port, *to, match=match, is_external=True)

    def dispatch_node_port(self, port: PlannedPort, node_port: int) -> None:
        match = f"-m {port.protocol} --dport {node_port}"
        protocol = f"-p {port.protocol}"
        if port.cluster_backends:
            chain = f"-j {iptables_chain(EXTERNAL, port)}"
            if self.serves_localhost:
                counter = "-m nfacct --nfacct-name  localhost_nps_accepted_pkts"
                self.add(
                    "nat",
                    "KUBE-NODEPORTS",
                    "-d 127.0.0.0/8",
                    protocol,
                    comment(port.name),
                    match,
                    counter,
                    chain,
                )
            self.add("nat", "KUBE-NODEPORTS", protocol, comment(port.name), match, chain)
        if not port.has_external_endpoints:
            match = f"-m addrtype --dst-type LOCAL {match}"
            self.refuse("KUBE-EXTERNAL-SERVICES", port, protocol, match=match, is_external=True)

    def refuse(
        self, chain: str, port: PlannedPort, *to: str, match: str, is_external: bool = False
    ) -> None:
        """A port without any endpoint rejects; one without the endpoints that its policy asks for
        drops.
        """
        reply = "icmp6-port-unreachable" if self.family == Family.IPV6 else "icmp-port-unreachable"
        why, verdict = "has no endpoints", f"-j REJECT --reject-with {reply}"
        if port.cluster_backends:
            why, verdict = "has no local endpoints", "-j DROP"
        self.add("filter", chain, *to, comment(f"{port.name} {why}"), match, verdict)

    def internal_masquerade(self, port: PlannedPort) -> None:
        """Masquerade on the way to the cluster IP: all clients, or those that are no pods."""
        options = self.plan.options
        sources, device = self.detector("! ")
        if not (options.masquerade_all or sources or device):
            return
        if options.masquerade_all:
            sources = device = ""
        chain = iptables_chain(LOCAL if port.is_internal_local else SERVICE, port)
        for frontend in port.frontends:
            if frontend.kind == CLUSTER_IP:
                self.add(
                    "nat",
                    chain,
                    sources,
                    f"-d {frontend.address}/{self.bits}",
                    device,
                    f"-p {port.protocol}",
                    comment(f"{port.name} cluster IP"),
                    f"-m {port.protocol} --dport {frontend.port}",
                    "-j KUBE-MARK-MASQ",
                )

    def external(self, port: PlannedPort) -> None:
        """The chain of all packets for external addresses of the service port."""
        chain, all_endpoints = iptables_chain(EXTERNAL, port), iptables_chain(SERVICE, port)
        if not port.is_external_local:
            where = comment(f"masquerade traffic for {port.name} external destinations")
            self.add("nat", chain, where, "-j KUBE-MARK-MASQ")
            self.add("nat", chain, f"-j {all_endpoints}")
            return
        sources, device = self.detector("")
        if sources or device:
            where = comment(f"pod traffic for {port.name} external destinations")
            self.add("nat", chain, sources, device, where, f"-j {all_endpoints}")
        local = "-m addrtype --src-type LOCAL"
        where = comment(f"masquerade LOCAL traffic for {port.name} external destinations")
        self.add("nat", chain, where, local, "-j KUBE-MARK-MASQ")
        where = comment(f"route LOCAL traffic for {port.name} external destinations")
        self.add("nat", chain, where, local, f"-j {all_endpoints}")
        if port.local_backends:
            self.add("nat", chain, f"-j {iptables_chain(LOCAL, port)}")

    def firewall(self, port: PlannedPort) -> None:
        """The chain that lets the source ranges in."""
        chain, external = iptables_chain(FIREWALL, port), iptables_chain(EXTERNAL, port)
        sources = list(port.source_ranges)
        if port.allows_load_balancer_source:
            sources += [
                f"{address}/{self.bits}" for address in self.written_addresses(port, LOAD_BALANCER)
            ]
        for source in sources:
            self.add(
                "nat",
                chain,
                f"-s {source}",
                comment(f"{port.name} loadbalancer IP"),
                f"-j {external}",
            )
        why = f"other traffic to {port.name} will be dropped by KUBE-PROXY-FIREWALL"
        self.add("nat", chain, comment(why))

    def balance(self, port: PlannedPort, prefix: str, backends: tuple[Backend, ...]) -> None:
        """The chain that chooses: first the endpoint that the client has affinity to, else by
        chance.
        """
        chain = iptables_chain(prefix, port)
        if port.affinity_seconds is not None:
            for backend in backends:
                endpoint = iptables_chain(ENDPOINT, port, backend)
                within = f"--rcheck --seconds {port.affinity_seconds} --reap"
                recent = f"-m recent {within} --name {endpoint} {self.recent}"
                self.add("nat", chain, self.towards(port, backend), recent, f"-j {endpoint}")
        for index, backend in enumerate(backends):
            remaining = len(backends) - index
            # The last rule has no chance to name: all packets that come so far are its own.
            endpoint = iptables_chain(ENDPOINT, port, backend)
            share = probability.chance_text(remaining, probability.MODERN)
            chance = f"-m statistic --mode random --probability {share}" if remaining > 1 else ""
            self.add("nat", chain, self.towards(port, backend), chance, f"-j {endpoint}")

    def endpoint(self, port: PlannedPort, backend: Backend) -> None:
        """The chain of one endpoint."""
        chain = iptables_chain(ENDPOINT, port, backend)
        about = "" if self.is_large else comment(port.name)
        self.add("nat", chain, f"-s {backend.address}/{self.bits}", about, "-j KUBE-MARK-MASQ")
        remember = ""
        if port.affinity_seconds is not None:
            remember = f"-m recent --set --name {chain} {self.recent}"
        self.add(
            "nat",
            chain,
            f"-p {port.protocol}",
            about,
            remember,
            f"-m {port.protocol}",
            f"-j DNAT --to-destination {backend}",
        )

    def node_ports(self) -> None:
        """The hand-over to node ports, behind all other rules."""
        where = comment(
            "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
        )
        if self.family in self.plan.node_ports.wildcard_families:
            aside = ""
            if self.family == Family.IPV6:
                aside = "! -d ::1/128"
            elif not self.serves_localhost:
                aside = "! -d 127.0.0.0/8"
            local = "-m addrtype --dst-type LOCAL"
            self.add("nat", "KUBE-SERVICES", aside, where, local, "-j KUBE-NODEPORTS")
            return
        for address in self.plan.node_ports.addresses:
            if family_of(address) == self.family:
                to = f"-d {address}/{self.bits}"
                self.add("nat", "KUBE-SERVICES", to, where, "-j KUBE-NODEPORTS")

    def detector(self, negation: str) -> tuple[str, str]:
        """The matches by which pods are known: by source, and by device. Both empty when nothing
        tells.
        """
        device = self.plan.options.pod_interface
        if device:
            return "", f"{negation}-i {device}"
        ranges = [text for text in self.plan.pod_ranges if family_of(text) == self.family]
        return (f"{negation}-s {ranges[0]}", "") if ranges else ("", "")

    def towards(self, port: PlannedPort, backend: Backend) -> str:
        return "" if self.is_large else comment(f"{port.name} -> {backend}")

    @property
    def recent(self) -> str:
        mask = (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
            if self.family == Family.IPV6
            else "255.255.255.255"
        )
        return f"--mask {mask} --rsource"


def endpoint_count(snapshot: Snapshot, family: Family, proxy_name: str | None = None) -> int:
    """Endpoints of all service ports of a family, ready or not: above `LARGE_CLUSTER` the cluster
    is large. Endpoints without a Service do not count, nor do those of another proxy's Services.
    """
    count = 0
    for service in snapshot.services:
        if service.proxy_name != proxy_name or family not in map(family_of, service.cluster_ips):
            continue
        addresses: dict[tuple[str, str], set[tuple[str, int]]] = {}
        for part in snapshot.slices.get(service.key, ()):
            if part.family == family:
                for port in part.ports:
                    places = {(endpoint.address, port.port) for endpoint in part.endpoints}
                    addresses.setdefault((port.name, port.protocol), set()).update(places)
        count += sum(
            len(addresses.get((entry.name, entry.protocol), ())) for entry in service.ports
        )
    return count


def comment(text: str) -> str:
    """The match that only carries a comment."""
    return f'-m comment --comment "{text}"'


BUILTIN: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
CHAINS: Final = {
    "mangle": (*BUILTIN, "KUBE-PROXY-CANARY"),
    "filter": (
        "INPUT",
        "FORWARD",
        "OUTPUT",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FIREWALL",
        "KUBE-FORWARD",
        "KUBE-NODEPORTS",
        "KUBE-PROXY-CANARY",
        "KUBE-PROXY-FIREWALL",
        "KUBE-SERVICES",
    ),
    "nat": (
        "PREROUTING",
        "INPUT",
        "OUTPUT",
        "POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-PROXY-CANARY",
        "KUBE-SERVICES",
    ),
}
NEW: Final = "-m conntrack --ctstate NEW"
BALANCER_JUMP: Final = (
    f"{NEW} {comment('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL"
)
EXTERNAL_JUMP: Final = (
    f"{NEW} {comment('kubernetes externally-visible service portals')} -j KUBE-EXTERNAL-SERVICES"
)
PORTALS: Final = f"{comment('kubernetes service portals')} -j KUBE-SERVICES"
DROP_INVALID: Final = (
    "-m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts -j DROP"
)
FRAME: Final = (
    ("filter", "INPUT", "-j KUBE-FIREWALL"),
    ("filter", "INPUT", BALANCER_JUMP),
    ("filter", "INPUT", f"{comment('kubernetes health check service ports')} -j KUBE-NODEPORTS"),
    ("filter", "INPUT", EXTERNAL_JUMP),
    ("filter", "FORWARD", BALANCER_JUMP),
    ("filter", "FORWARD", f"{comment('kubernetes forwarding rules')} -j KUBE-FORWARD"),
    ("filter", "FORWARD", f"{NEW} {PORTALS}"),
    ("filter", "FORWARD", EXTERNAL_JUMP),
    ("filter", "OUTPUT", "-j KUBE-FIREWALL"),
    ("filter", "OUTPUT", BALANCER_JUMP),
    ("filter", "OUTPUT", f"{NEW} {PORTALS}"),
    ("filter", "KUBE-FORWARD", DROP_INVALID),
    (
        "filter",
        "KUBE-FORWARD",
        f"{comment('kubernetes forwarding rules')} -m mark --mark {{mark}}/{{mark}} -j ACCEPT",
    ),
    (
        "filter",
        "KUBE-FORWARD",
        f"{comment('kubernetes forwarding conntrack rule')} "
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
    ("nat", "PREROUTING", PORTALS),
    ("nat", "OUTPUT", PORTALS),
    ("nat", "POSTROUTING", f"{comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING"),
    ("nat", "KUBE-MARK-MASQ", "-j MARK --set-xmark {mark}/{mark}"),
    ("nat", "KUBE-POSTROUTING", "-m mark ! --mark {mark}/{mark} -j RETURN"),
    ("nat", "KUBE-POSTROUTING", "-j MARK --set-xmark {mark}/0x0"),
    (
        "nat",
        "KUBE-POSTROUTING",
        f"{comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
    ),
)
BLOCK_LOCALNET: Final = (
    f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {comment('block incoming localnet connections')} "
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)
NOBODY: Final = Service("", "")
LARGE_CLUSTER: Final = 1000
"""Above so many endpoints kube-proxy leaves the comments of endpoint rules out."""
