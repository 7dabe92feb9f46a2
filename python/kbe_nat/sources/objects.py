"""Kubernetes objects as they are written, and no more of them than kbe-nat reads.

Types are strict: a field of the wrong type or out of its range refuses the object, with the path of
the field. Addresses stay text here, since a wrong one among many must not refuse its whole object;
`kbe_nat.sources.snapshot` parses them one by one.

The collector of cycles does not track these values (`gc=False`): there are hundreds of thousands,
and what `msgspec.convert` builds from a document cannot contain itself. Arrays are tuples: empty
ones, of which every Service has several, take no memory.
"""

from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct, field

from kbe_nat.errors import ObjectError

Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
]
PortName: TypeAlias = Annotated[
    str, Meta(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?\Z")
]
PortNumber: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
OptionalPort: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
TargetName: TypeAlias = Annotated[
    str, Meta(pattern=r"^(|[-a-z0-9]*[a-z][-a-z0-9]*)\Z", max_length=63)
]
"""A text of digits is no name: the API server refuses it, lest it be taken for a number."""
Protocol: TypeAlias = Literal["TCP", "UDP", "SCTP"]
Policy: TypeAlias = Literal["Cluster", "Local", ""]


class Metadata(Struct, frozen=True, gc=False):
    """Fields that every object has."""

    name: Name
    namespace: Annotated[
        str, Meta(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?\Z")
    ] = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    created: str = field(name="creationTimestamp", default="")
    deleted: str = field(name="deletionTimestamp", default="")


class ServicePortObject(Struct, frozen=True, gc=False):
    """`spec.ports[]` of a Service."""

    port: PortNumber
    name: PortName = ""
    protocol: Protocol = "TCP"
    target_port: OptionalPort | TargetName | None = field(name="targetPort", default=None)
    """Nothing, 0 and "" stand for `port`."""
    node_port: OptionalPort = field(name="nodePort", default=0)


class ClientIP(Struct, frozen=True, gc=False):
    """`spec.sessionAffinityConfig.clientIP`."""

    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = field(
        name="timeoutSeconds", default=10800
    )


class AffinityConfig(Struct, frozen=True, gc=False):
    """`spec.sessionAffinityConfig`."""

    client_ip: ClientIP = field(name="clientIP", default=ClientIP())


class ServiceSpec(Struct, frozen=True, gc=False):
    """`spec` of a Service."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    cluster_ip: str = field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = field(name="clusterIPs", default=())
    families: tuple[Literal["IPv4", "IPv6"], ...] = field(name="ipFamilies", default=())
    ports: tuple[ServicePortObject, ...] = ()
    selector: dict[str, str] = {}
    external_ips: tuple[str, ...] = field(name="externalIPs", default=())
    source_ranges: tuple[str, ...] = field(name="loadBalancerSourceRanges", default=())
    internal_policy: Policy = field(name="internalTrafficPolicy", default="Cluster")
    external_policy: Policy = field(name="externalTrafficPolicy", default="Cluster")
    affinity: Literal["None", "ClientIP", ""] = field(name="sessionAffinity", default="None")
    affinity_config: AffinityConfig = field(name="sessionAffinityConfig", default=AffinityConfig())
    health_check_node_port: OptionalPort = field(name="healthCheckNodePort", default=0)
    traffic_distribution: str = field(name="trafficDistribution", default="")
    publishes_not_ready: bool = field(name="publishNotReadyAddresses", default=False)


class Ingress(Struct, frozen=True, gc=False):
    """`status.loadBalancer.ingress[]`."""

    ip: str = ""
    mode: str = field(name="ipMode", default="VIP")


class LoadBalancerStatus(Struct, frozen=True, gc=False):
    """`status.loadBalancer`."""

    ingress: tuple[Ingress, ...] = ()


class ServiceStatus(Struct, frozen=True, gc=False):
    """`status` of a Service."""

    load_balancer: LoadBalancerStatus = field(name="loadBalancer", default=LoadBalancerStatus())


class ServiceObject(Struct, frozen=True, gc=False):
    """A Service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class Named(Struct, frozen=True, gc=False):
    """An object with a name and nothing else of interest."""

    name: str = ""
    kind: str = ""


class Hints(Struct, frozen=True, gc=False):
    """`endpoints[].hints` of an EndpointSlice."""

    zones: tuple[Named, ...] = field(name="forZones", default=())
    nodes: tuple[Named, ...] = field(name="forNodes", default=())


class Conditions(Struct, frozen=True, gc=False):
    """`endpoints[].conditions` of an EndpointSlice; missing means ready, serving and not
    terminating.
    """

    ready: bool = True
    serving: bool = True
    terminating: bool = False


class EndpointObject(Struct, frozen=True, gc=False):
    """`endpoints[]` of an EndpointSlice."""

    addresses: tuple[str, ...] = ()
    conditions: Conditions = Conditions()
    node: str = field(name="nodeName", default="")
    hints: Hints = Hints()
    target: Named = field(name="targetRef", default=Named())


class SlicePortObject(Struct, frozen=True, gc=False):
    """`ports[]` of an EndpointSlice. No port, or 0, stands for "all ports": no service port can
    mean that.
    """

    name: PortName = ""
    protocol: Protocol = "TCP"
    port: OptionalPort = 0


class EndpointSliceObject(Struct, frozen=True, gc=False):
    """An EndpointSlice."""

    metadata: Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"] = field(name="addressType")
    endpoints: tuple[EndpointObject, ...] = ()
    ports: tuple[SlicePortObject, ...] = ()


class Taint(Struct, frozen=True, gc=False):
    """`spec.taints[]` of a Node."""

    key: str = ""


class NodeSpec(Struct, frozen=True, gc=False):
    """`spec` of a Node."""

    pod_cidr: str = field(name="podCIDR", default="")
    pod_cidrs: tuple[str, ...] = field(name="podCIDRs", default=())
    taints: tuple[Taint, ...] = ()


class NodeAddress(Struct, frozen=True, gc=False):
    """`status.addresses[]` of a Node."""

    type: str
    address: str


class NodeStatus(Struct, frozen=True, gc=False):
    """`status` of a Node."""

    addresses: tuple[NodeAddress, ...] = ()


class NodeObject(Struct, frozen=True, gc=False):
    """A Node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ContainerPort(Struct, frozen=True, gc=False):
    """`spec.containers[].ports[]` of a Pod."""

    number: PortNumber = field(name="containerPort")
    name: str = ""
    protocol: Protocol = "TCP"


class Container(Struct, frozen=True, gc=False):
    """`spec.containers[]` of a Pod, and `spec.initContainers[]`."""

    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = field(name="restartPolicy", default="")


class PodSpec(Struct, frozen=True, gc=False):
    """`spec` of a Pod."""

    node: str = field(name="nodeName", default="")
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = field(name="initContainers", default=())

    @property
    def serving_containers(self) -> list[Container]:
        """The containers that run as long as the Pod does: sidecars are init containers that are
        always restarted, and come last.
        """
        sidecars = (part for part in self.init_containers if part.restart_policy == "Always")
        return [*self.containers, *sidecars]


class PodAddress(Struct, frozen=True, gc=False):
    """`status.podIPs[]`."""

    ip: str = ""


class PodCondition(Struct, frozen=True, gc=False):
    """`status.conditions[]` of a Pod."""

    type: str
    status: str


class PodStatus(Struct, frozen=True, gc=False):
    """`status` of a Pod."""

    phase: str = ""
    ip: str = field(name="podIP", default="")
    ips: tuple[PodAddress, ...] = field(name="podIPs", default=())
    conditions: tuple[PodCondition, ...] = ()


class PodObject(Struct, frozen=True, gc=False):
    """A Pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class TemplateMetadata(Struct, frozen=True, gc=False):
    """`spec.template.metadata`: a name is not needed there."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class PodTemplate(Struct, frozen=True, gc=False):
    """`spec.template` of a controller."""

    metadata: TemplateMetadata = TemplateMetadata()
    spec: PodSpec = PodSpec()


class ControllerSpec(Struct, frozen=True, gc=False):
    """`spec` of a ReplicationController, ReplicaSet or Deployment."""

    replicas: Annotated[int, Meta(ge=0, le=100_000)] = 1
    template: PodTemplate = PodTemplate()


class ControllerObject(Struct, frozen=True, gc=False):
    """A ReplicationController, ReplicaSet or Deployment: it makes Pods from a template."""

    metadata: Metadata
    spec: ControllerSpec = ControllerSpec()


class ServiceCIDRSpec(Struct, frozen=True, gc=False):
    """`spec` of a ServiceCIDR."""

    cidrs: tuple[str, ...] = ()


class ServiceCIDRObject(Struct, frozen=True, gc=False):
    """A ServiceCIDR."""

    metadata: Metadata
    spec: ServiceCIDRSpec = ServiceCIDRSpec()


ObjectKey: TypeAlias = tuple[str, str, str]
"""Kind, namespace ("" where the kind has none) and name."""
Known: TypeAlias = (
    ServiceObject
    | EndpointSliceObject
    | NodeObject
    | PodObject
    | ControllerObject
    | ServiceCIDRObject
)

KINDS: Final[dict[tuple[str, str], type[Known]]] = {
    ("v1", "Service"): ServiceObject,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSliceObject,
    ("v1", "Node"): NodeObject,
    ("v1", "Pod"): PodObject,
    ("v1", "ReplicationController"): ControllerObject,
    ("apps/v1", "ReplicaSet"): ControllerObject,
    ("apps/v1", "Deployment"): ControllerObject,
    ("networking.k8s.io/v1", "ServiceCIDR"): ServiceCIDRObject,
    # It has the same fields.
    ("networking.k8s.io/v1beta1", "ServiceCIDR"): ServiceCIDRObject,
}
"""The kinds that are read, by version and kind; all others are left out with a note."""
NAMES: Final = frozenset(kind for _, kind in KINDS)
CLUSTER_SCOPED: Final = (NodeObject, ServiceCIDRObject)
CLUSTER_SCOPED_KINDS: Final = ("Node", "ServiceCIDR")


class Origin(NamedTuple):
    """A file or a watch that objects come from."""

    rank: int
    """Orders origins: claims of a lower rank come first, and of one object in two origins the
    higher one counts.
    """
    name: str
    """Tells origins of one rank apart, and orders them."""


class Place(NamedTuple):
    """Where an object stands, by which claims are ordered."""

    origin: Origin
    position: int
    """The origin's own order; 0 for all where it has none."""


class ParsedObject(Struct, frozen=True, gc=False):
    """An object and where it stands."""

    origin: str
    """For messages, such as "cluster.yaml, document 3"."""
    kind: str
    value: Known

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name: they identify the object."""
        value = self.value
        is_cluster_scoped = isinstance(value, CLUSTER_SCOPED)
        return self.kind, "" if is_cluster_scoped else namespace(value), value.metadata.name

    @property
    def name(self) -> str:
        """Name, with the namespace where the kind has one."""
        return name_of(self.key)

    @property
    def subject(self) -> str:
        """Kind and name, for messages."""
        return f"{self.kind} {self.name}"

    def note(self, text: str) -> str:
        """A line about this object, for people."""
        return f"{self.origin}: {self.subject}: {text}"

    def refuse(self, reason: str, path: str) -> ObjectError:
        """The error that refuses this object."""
        return ObjectError(self.origin, self.subject, reason, path)


def name_of(key: ObjectKey) -> str:
    """Name, with the namespace where the kind has one."""
    _, space, name = key
    return f"{space}/{name}" if space else name


def namespace(value: Known) -> str:
    """The namespace of an object; "default" when it names none."""
    return value.metadata.namespace or "default"


def refused_key(error: ObjectError) -> ObjectKey:
    """The key of a refused object, whose subject has as much of it as could be read; a namespace
    that it leaves out is the default one.
    """
    kind, _, name = error.subject.partition(" ")
    if kind in CLUSTER_SCOPED_KINDS:
        return kind, "", name
    space, slash, rest = name.partition("/")
    return (kind, space, rest) if slash else (kind, "default", name)
