"""Random clusters: objects as the API server would give them, and the options of a node. One seed,
one cluster.

Objects ask for all that the API lets through, also for what nobody should: endpoints that are the
node itself, a cluster IP or another Service's address, addresses named twice, a Service's own
cluster IP as its external one.
"""

import json
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Final

from kbe_nat.family import Family
from kbe_nat.policy.options import Mode, Options

NODE, OTHER = "kbe-worker", "kbe-worker2"


@dataclass(frozen=True)
class Plane:
    """Addresses of one family."""

    node: tuple[str, ...]
    """This node's; the first is its primary one."""
    other: str
    """Another node's."""
    outside: tuple[str, ...]
    """Clients, some of them within source ranges."""
    pods: tuple[str, ...]
    """The first half on this node."""
    virtual: tuple[str, ...]
    """For cluster IPs; some stay free."""
    shared: tuple[str, ...]
    """External addresses, for several Services."""
    ranges: tuple[str, ...]
    """Source ranges."""
    pod_range: str
    node_range: str
    service_range: str
    loopback: tuple[str, ...]


PLANES: Final = {
    Family.IPV4: Plane(
        ("172.18.0.3", "192.168.7.3", "198.51.100.9"),
        "172.18.0.4",
        ("203.0.113.5", "203.0.113.200", "198.51.100.77"),
        ("10.244.1.5", "10.244.1.10", "10.244.1.11", "10.244.2.5", "10.244.2.10", "10.244.2.100"),
        tuple(f"10.96.{number // 4}.{10 + number}" for number in range(9)),
        ("198.51.100.1", "198.51.100.2", "198.51.100.9", "172.18.0.3", "172.18.0.4"),
        (
            "203.0.113.0/25",
            "203.0.113.5/32",
            "172.18.0.0/16",
            "10.244.0.0/16",
            "198.51.100.0/24",
            "0.0.0.0/0",
        ),
        "10.244.0.0/16",
        "10.244.1.0/24",
        "10.96.0.0/16",
        ("127.0.0.1", "127.8.0.1"),
    ),
    Family.IPV6: Plane(
        ("fc00:f853:ccd:e793::3", "2001:db8:7::3", "2001:db8:51::9"),
        "fc00:f853:ccd:e793::4",
        ("2001:db8:113::5", "2001:db8:113::8000:5", "2001:db8:51::77"),
        (
            "fd00:10:244:1::5",
            "fd00:10:244:1::a",
            "fd00:10:244:1::b",
            "fd00:10:244:2::5",
            "fd00:10:244:2::a",
            "fd00:10:244:2::64",
        ),
        tuple(f"fd00:10:96::{10 + number:x}" for number in range(9)),
        (
            "2001:db8:51::1",
            "2001:db8:51::2",
            "2001:db8:51::9",
            "fc00:f853:ccd:e793::3",
            "fc00:f853:ccd:e793::4",
        ),
        (
            "2001:db8:113::/97",
            "2001:db8:113::5/128",
            "fc00:f853:ccd:e793::/64",
            "fd00:10:244::/48",
            "2001:db8:51::/64",
            "::/0",
        ),
        "fd00:10:244::/48",
        "fd00:10:244:1::/64",
        "fd00:10:96::/112",
        ("::1",),
    ),
}
PROTOCOLS: Final = ("TCP", "TCP", "UDP", "SCTP")
POD_DEVICE: Final = "cbr0"
LONG: Final = "a" + "0123456789" * 6 + "z9"
"""As long as a label may be."""


@dataclass(frozen=True)
class Flow:
    """The first packet of a connection."""

    source: str
    destination: str
    port: int
    protocol: str
    device: str | None
    """None for the node's own."""

    @property
    def family(self) -> Family:
        return Family.IPV6 if ":" in self.destination else Family.IPV4


@dataclass(frozen=True)
class Cluster:
    """What one seed gives."""

    seed: int
    objects: list[dict[str, Any]]
    options: Options
    families: tuple[Family, ...]
    places: dict[int, list[tuple[str, int, str]]] = field(repr=False)
    """Address, port and protocol of all that may be spoken to, by family."""

    def write(self, folder: Path) -> Path:
        """The objects as a file."""
        path = folder / f"cluster-{self.seed}.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects}))
        return path

    def flows(self, count: int) -> list[Flow]:
        """So many packets from every kind of source to every kind of destination, the same for
        every mode.
        """
        random = Random(f"{self.seed} flows")
        found: list[Flow] = []
        while len(found) < count:
            number = random.choice(self.families)
            plane = PLANES[number]
            destination, port, protocol = random.choice(self.places[number])
            source = random.choice(
                (
                    *plane.node,
                    *plane.outside,
                    *plane.pods,
                    plane.other,
                    *plane.shared[:2],
                    *plane.loopback,
                )
            )
            is_own = source in (*self.options.node_addresses, *plane.loopback)
            if not is_own and (source == destination or destination in plane.loopback):
                # The kernel lets no such packet in, and kube-proxy's rules never see it.
                continue
            device = None if is_own else random.choice((POD_DEVICE, "eth0"))
            found.append(Flow(source, destination, port, protocol, device))
        return found


def cluster(seed: int) -> Cluster:
    """The cluster of a seed."""
    return _Growth(seed).cluster()


class _Growth:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.families = self.random.choice(
            (
                (Family.IPV4,),
                (Family.IPV4,),
                (Family.IPV6,),
                (Family.IPV4, Family.IPV6),
                (Family.IPV6, Family.IPV4),
            )
        )
        self.count = self.random.randint(1, 6)
        self.taken: set[tuple[str, str, int]] = set()
        """Protocol, address and port of what Services have, so that no two want the same."""
        self.places: dict[int, list[tuple[str, int, str]]] = {
            number: [] for number in self.families
        }

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def some(self, values: tuple[Any, ...], most: int, least: int = 0) -> list[Any]:
        return self.random.choices(values, k=self.random.randint(least, most))

    def cluster(self) -> Cluster:
        objects = [self.node(NODE, 1), self.node(OTHER, 2)]
        if self.maybe(0.7):
            objects.append(
                self.object("ServiceCIDR", "kubernetes", spec={"cidrs": self.service_ranges()})
            )
        for number in range(self.count):
            objects += self.service(number)
        for number in self.families:
            self.places[number] += self.beside(number)
        self.random.shuffle(objects)
        return Cluster(self.seed, objects, self.options(), self.families, self.places)

    def object(self, kind: str, name: str, **more: Any) -> dict[str, Any]:
        group = {
            "EndpointSlice": "discovery.k8s.io/v1",
            "ServiceCIDR": "networking.k8s.io/v1",
        }.get(kind, "v1")
        metadata = {"name": name, **more.pop("metadata", {})}
        return {"apiVersion": group, "kind": kind, "metadata": metadata, **more}

    def node(self, name: str, number: int) -> dict[str, Any]:
        planes = [PLANES[own] for own in self.families]
        addresses = [plane.node[0] if number == 1 else plane.other for plane in planes]
        zone = {"topology.kubernetes.io/zone": self.random.choice("ab")} if self.maybe(0.8) else {}
        ranges = [plane.node_range for plane in planes] if number == 1 else []
        return self.object(
            "Node",
            name,
            metadata={"labels": zone},
            spec={"podCIDRs": ranges},
            status={"addresses": [{"type": "InternalIP", "address": own} for own in addresses]},
        )

    def service_ranges(self) -> list[str]:
        ranges = [PLANES[number].service_range for number in self.families]
        if self.maybe(0.2) and Family.IPV4 in self.families:
            ranges.append("10.96.2.0/24")
        return ranges

    def service(self, number: int) -> list[dict[str, Any]]:
        name = self.random.choice((f"s{number}", f"s{number}-{LONG}"[:63], f"{number}x"))
        space = self.random.choice(("default", "kube-system", f"n{LONG}"[:63]))
        kind = self.random.choice(("ClusterIP", "NodePort", "LoadBalancer"))
        if self.maybe(0.05):
            kind = "ExternalName"
        own = tuple(
            family for family in self.families if len(self.families) == 1 or self.maybe(0.8)
        )
        families = own or self.families[:1]
        virtual = (
            ["None"] if self.maybe(0.05) else [PLANES[one].virtual[number] for one in families]
        )
        ports = self.ports(number, kind, virtual)
        spec: dict[str, Any] = {
            "type": kind,
            "clusterIP": virtual[0],
            "clusterIPs": virtual,
            "ports": ports,
            "internalTrafficPolicy": self.random.choice(("Cluster", "Cluster", "Local")),
            "externalTrafficPolicy": self.random.choice(("Cluster", "Local")),
        }
        if self.maybe(0.4):
            spec["externalIPs"] = self.external(families, virtual, ports)
        if self.maybe(0.3):
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {
                "clientIP": {"timeoutSeconds": self.random.randint(1, 86_400)}
            }
        metadata: dict[str, Any] = {"namespace": space, "labels": {}}
        if self.maybe(0.04):
            metadata["labels"]["service.kubernetes.io/service-proxy-name"] = "other"
        status: dict[str, Any] = {}
        if kind == "LoadBalancer":
            if spec["externalTrafficPolicy"] == "Local":
                spec["healthCheckNodePort"] = 32_000 + number
                for family in families:
                    self.place(PLANES[family].node[0], 32_000 + number, "TCP")
            if self.maybe(0.5):
                spec["loadBalancerSourceRanges"] = [
                    text for family in families for text in self.some(PLANES[family].ranges, 2)
                ]
            mode = self.random.choice(({}, {"ipMode": "VIP"}, {"ipMode": "Proxy"}))
            points = [{"ip": ip, **mode} for ip in self.external(families, virtual, ports)]
            status = {"loadBalancer": {"ingress": points}}
        made = self.object("Service", name, metadata=metadata, spec=spec, status=status)
        for address, port in product((ip for ip in virtual if ip != "None"), ports):
            self.place(address, port["port"], port["protocol"])
            self.place(address, port["port"] + 1, port["protocol"])
        slices = [
            self.slice(f"{name[:50]}-{family}-{part}", space, name, family, ports)
            for family in families
            for part in range(self.random.choice((0, 1, 1, 1, 2, 3)))
        ]
        return [made, *slices]

    def ports(self, number: int, kind: str, virtual: list[str]) -> list[dict[str, Any]]:
        count = self.random.choice((1, 1, 2, 3))
        ports = []
        for place in range(count):
            protocol = self.random.choice(PROTOCOLS)
            port: dict[str, Any] = {"port": 80 + place, "protocol": protocol}
            if self.maybe(0.1):
                # Another Service's node port.
                port["port"] = 30_000 + 10 * self.random.randrange(self.count) + place
            if count > 1 or self.maybe(0.3):
                port["name"] = self.random.choice((f"p{place}", f"{place}-{LONG}"[:63]))
            if kind in ("NodePort", "LoadBalancer") and self.maybe(0.9):
                port["nodePort"] = 30_000 + 10 * number + place
                for family in self.families:
                    plane = PLANES[family]
                    for address in (
                        *plane.node[:2],
                        *plane.loopback,
                        self.random.choice(plane.shared),
                    ):
                        self.place(address, port["nodePort"], protocol)
            self.taken |= {(protocol, address, port["port"]) for address in virtual}
            ports.append(port)
        return ports

    def external(
        self, families: tuple[Family, ...], virtual: list[str], ports: list[dict[str, Any]]
    ) -> list[str]:
        """Addresses that no other Service has with these ports; some twice, some the Service's own
        cluster IP.
        """
        found = []
        for family in families:
            plane = PLANES[family]
            for address in self.some((*plane.shared, *plane.virtual), 3):
                wanted = {(port["protocol"], address, port["port"]) for port in ports}
                is_own = address in virtual or address in found
                # Cluster IPs of Services that are still to come are theirs.
                is_later = address in plane.virtual[: self.count] and not is_own
                if is_own or not (is_later or wanted & self.taken):
                    found.append(address)
                    self.taken |= wanted
                    for port in ports:
                        self.place(address, port["port"], port["protocol"])
        return found

    def place(self, address: str, port: int, protocol: str) -> None:
        family = Family.IPV6 if ":" in address else Family.IPV4
        if family in self.places:
            self.places[family].append((address, port, protocol.lower()))
            if self.maybe(0.1):
                self.places[family].append(
                    (address, port, self.random.choice(("tcp", "udp", "sctp")))
                )

    def beside(self, family: Family) -> list[tuple[str, int, str]]:
        """Places that no Service has."""
        plane = PLANES[family]
        addresses = (
            *plane.virtual,
            plane.node[0],
            plane.pods[0],
            plane.shared[0],
            plane.outside[0],
        )
        return [(address, self.random.choice((80, 8080)), "tcp") for address in addresses]

    def slice(
        self, name: str, space: str, service: str, family: Family, ports: list[dict[str, Any]]
    ) -> dict[str, Any]:
        label = {"kubernetes.io/service-name": service}
        if self.maybe(0.03):
            label["service.kubernetes.io/headless"] = ""
        mapped = []
        endpoints = [self.endpoint(family) for _ in range(self.random.choice((0, 1, 2, 3, 5)))]
        for port in ports:
            number = self.random.choice(
                (8080, 8080, 9090, port["port"], port.get("nodePort", 8080))
            )
            aims = [own for own in self.places[family] if own[2] == port["protocol"].lower()]
            if aims and self.maybe(0.3):
                # Some other Service may be reached there.
                address, number, _ = self.random.choice(aims)
                endpoints.append(
                    {"addresses": [address], "conditions": self.random.choice(CONDITIONS[:3])}
                )
            if self.maybe(0.95):
                mapped.append(
                    {"name": port.get("name", ""), "protocol": port["protocol"], "port": number}
                )
        if self.maybe(0.1):
            mapped.append({"name": "nobody", "protocol": "TCP", "port": 7070})
        kind = "IPv6" if family == Family.IPV6 else "IPv4"
        if self.maybe(0.03):
            kind, endpoints = "FQDN", [{"addresses": ["example.org"], "conditions": {}}]
        return self.object(
            "EndpointSlice",
            name,
            metadata={"namespace": space, "labels": label},
            addressType=kind,
            endpoints=endpoints,
            ports=mapped,
        )

    def endpoint(self, family: Family) -> dict[str, Any]:
        plane = PLANES[family]
        kind = self.random.random()
        node = self.random.choice((NODE, OTHER, ""))
        if kind < 0.7:
            place = self.random.randrange(len(plane.pods))
            address = plane.pods[place]
            node = NODE if place < len(plane.pods) // 2 else OTHER
        elif kind < 0.85:
            address = self.random.choice((*plane.node, plane.other))
        else:
            address = self.random.choice((*plane.virtual, *plane.shared))
        if self.maybe(0.05):
            node = self.random.choice((NODE, OTHER, ""))
        hints = {}
        if self.maybe(0.3):
            hints["forZones"] = [{"name": self.random.choice("ab")}]
        if self.maybe(0.1):
            hints["forNodes"] = [{"name": self.random.choice((NODE, OTHER))}]
        return {
            "addresses": [address],
            "conditions": self.random.choice(CONDITIONS),
            **({"nodeName": node} if node else {}),
            **({"hints": hints} if hints else {}),
        }

    def options(self) -> Options:
        planes = [PLANES[number] for number in self.families]
        kind = self.random.choice(("ranges", "ranges", "node", "bridge", "prefix", "nothing"))
        local = [address for plane in planes for address in plane.node]
        if self.maybe(0.15):
            # As NodeLocal DNSCache has it.
            local += [plane.virtual[0] for plane in planes]
        listed = tuple(
            self.random.choice((plane.node[1] + "/32", "192.168.0.0/16")) for plane in planes
        )
        listed = tuple(text if "." in text else text.replace("/32", "/128") for text in listed)
        return Options(
            node=self.random.choice((NODE, NODE, NODE, "")),
            node_addresses=tuple(local)
            if self.maybe(0.9)
            else tuple(plane.node[0] for plane in planes),
            cluster_ranges=tuple(plane.pod_range for plane in planes) if kind == "ranges" else (),
            uses_node_ranges=kind == "node",
            pod_interface={"bridge": POD_DEVICE, "prefix": "cb+"}.get(kind, ""),
            masquerade_all=self.maybe(0.2),
            masquerade_bit=self.random.choice((14, 14, 0, 31)),
            node_port_addresses=self.random.choice(
                ((), (), ("primary",), listed, ("127.0.0.0/8", *listed), ("0.0.0.0/0",), ("::/0",))
            ),
            localhost_node_ports=self.maybe(0.7),
            is_conntrack_liberal=self.maybe(0.2),
            mode=Mode.IPTABLES,
        )


CONDITIONS: Final[tuple[dict[str, bool], ...]] = (
    {},
    {"ready": True},
    {"ready": True, "serving": True, "terminating": False},
    {"ready": False},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
    {"ready": True, "serving": True, "terminating": True},
)
