"""Fields of the API's messages in the order in which JSON has them: number, name in JSON, type, and
when they are written.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias


class Scalar(Enum):
    """A type that is no message."""

    TEXT = auto()
    NUMBER = auto()
    BOOL = auto()
    TIME = auto()
    """RFC 3339 in JSON."""
    TEXTS_BY_NAME = auto()
    QUANTITIES_BY_NAME = auto()
    INT_OR_STRING = auto()
    JSON = auto()
    """Any value, as its text."""


class Presence(Enum):
    """When a field is written. In Go it is a pointer, or it is not."""

    ALWAYS = auto()
    """No pointer: on the wire even if it is empty. JSON leaves it out then."""
    REQUIRED = auto()
    """Like `ALWAYS`, and in JSON even if it is empty."""
    WHERE_SET = auto()
    """A pointer, empty or not, or a map."""
    REPEATED = auto()
    """An array."""


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    number: int
    name: str
    type: "Scalar | Schema"
    presence: Presence


Schema: TypeAlias = tuple[Field, ...]


def always(number: int, name: str, type: Scalar | Schema = Scalar.TEXT) -> Field:
    """A field that is no pointer."""
    return Field(number, name, type, Presence.ALWAYS)


def required(number: int, name: str, type: Scalar | Schema = Scalar.TEXT) -> Field:
    """A field that is no pointer, and that JSON always has."""
    return Field(number, name, type, Presence.REQUIRED)


def where_set(number: int, name: str, type: Scalar | Schema = Scalar.TEXT) -> Field:
    """A pointer or a map."""
    return Field(number, name, type, Presence.WHERE_SET)


def repeated(number: int, name: str, type: Scalar | Schema = Scalar.TEXT) -> Field:
    """An array."""
    return Field(number, name, type, Presence.REPEATED)


OWNER: Final = (
    always(1, "kind"),
    always(3, "name"),
    always(4, "uid"),
    always(5, "apiVersion"),
    where_set(6, "controller", Scalar.BOOL),
    where_set(7, "blockOwnerDeletion", Scalar.BOOL),
)
MANAGED_FIELDS: Final = (
    always(1, "manager"),
    always(2, "operation"),
    always(3, "apiVersion"),
    where_set(4, "time", Scalar.TIME),
    always(6, "fieldsType"),
    where_set(7, "fieldsV1", Scalar.JSON),
    always(8, "subresource"),
)
METADATA: Final = (
    always(1, "name"),
    always(2, "generateName"),
    always(3, "namespace"),
    always(4, "selfLink"),
    always(5, "uid"),
    always(6, "resourceVersion"),
    always(7, "generation", Scalar.NUMBER),
    always(8, "creationTimestamp", Scalar.TIME),
    where_set(9, "deletionTimestamp", Scalar.TIME),
    where_set(10, "deletionGracePeriodSeconds", Scalar.NUMBER),
    where_set(11, "labels", Scalar.TEXTS_BY_NAME),
    where_set(12, "annotations", Scalar.TEXTS_BY_NAME),
    repeated(13, "ownerReferences", OWNER),
    repeated(14, "finalizers"),
    repeated(17, "managedFields", MANAGED_FIELDS),
)
LIST_METADATA: Final = (
    always(1, "selfLink"),
    always(2, "resourceVersion"),
    always(3, "continue"),
    where_set(4, "remainingItemCount", Scalar.NUMBER),
)
CONDITION: Final = (
    always(1, "type"),
    always(2, "status"),
    always(3, "observedGeneration", Scalar.NUMBER),
    always(4, "lastTransitionTime", Scalar.TIME),
    always(5, "reason"),
    always(6, "message"),
)

SERVICE_PORT: Final = (
    always(1, "name"),
    always(2, "protocol"),
    where_set(6, "appProtocol"),
    required(3, "port", Scalar.NUMBER),
    required(4, "targetPort", Scalar.INT_OR_STRING),
    always(5, "nodePort", Scalar.NUMBER),
)
SERVICE_SPEC: Final = (
    repeated(1, "ports", SERVICE_PORT),
    where_set(2, "selector", Scalar.TEXTS_BY_NAME),
    always(3, "clusterIP"),
    repeated(18, "clusterIPs"),
    always(4, "type"),
    repeated(5, "externalIPs"),
    always(7, "sessionAffinity"),
    always(8, "loadBalancerIP"),
    repeated(9, "loadBalancerSourceRanges"),
    always(10, "externalName"),
    always(11, "externalTrafficPolicy"),
    always(12, "healthCheckNodePort", Scalar.NUMBER),
    always(13, "publishNotReadyAddresses", Scalar.BOOL),
    where_set(
        14,
        "sessionAffinityConfig",
        (where_set(1, "clientIP", (where_set(1, "timeoutSeconds", Scalar.NUMBER),)),),
    ),
    repeated(19, "ipFamilies"),
    where_set(17, "ipFamilyPolicy"),
    where_set(20, "allocateLoadBalancerNodePorts", Scalar.BOOL),
    where_set(21, "loadBalancerClass"),
    where_set(22, "internalTrafficPolicy"),
    where_set(23, "trafficDistribution"),
)
INGRESS_PORT: Final = (
    required(1, "port", Scalar.NUMBER),
    always(2, "protocol"),
    where_set(3, "error"),
)
INGRESS: Final = (
    always(1, "ip"),
    always(2, "hostname"),
    where_set(3, "ipMode"),
    repeated(4, "ports", INGRESS_PORT),
)
SERVICE: Final = (
    always(1, "metadata", METADATA),
    always(2, "spec", SERVICE_SPEC),
    always(
        3,
        "status",
        (
            always(1, "loadBalancer", (repeated(1, "ingress", INGRESS),)),
            repeated(2, "conditions", CONDITION),
        ),
    ),
)

REFERENCE: Final = tuple(
    always(number, name)
    for number, name in enumerate(
        ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"), 1
    )
)
ENDPOINT: Final = (
    repeated(1, "addresses"),
    always(
        2,
        "conditions",
        (
            where_set(1, "ready", Scalar.BOOL),
            where_set(2, "serving", Scalar.BOOL),
            where_set(3, "terminating", Scalar.BOOL),
        ),
    ),
    where_set(3, "hostname"),
    where_set(4, "targetRef", REFERENCE),
    where_set(5, "deprecatedTopology", Scalar.TEXTS_BY_NAME),
    where_set(6, "nodeName"),
    where_set(7, "zone"),
    where_set(
        8,
        "hints",
        (
            repeated(1, "forZones", (required(1, "name"),)),
            repeated(2, "forNodes", (required(1, "name"),)),
        ),
    ),
)
SLICE_PORT: Final = (
    where_set(1, "name"),
    where_set(2, "protocol"),
    where_set(3, "port", Scalar.NUMBER),
    where_set(4, "appProtocol"),
)
ENDPOINT_SLICE: Final = (
    always(1, "metadata", METADATA),
    required(4, "addressType"),
    repeated(2, "endpoints", ENDPOINT),
    repeated(3, "ports", SLICE_PORT),
)

TAINT: Final = (
    required(1, "key"),
    always(2, "value"),
    always(3, "effect"),
    where_set(4, "timeAdded", Scalar.TIME),
)
NODE_CONDITION: Final = (
    always(1, "type"),
    always(2, "status"),
    always(3, "lastHeartbeatTime", Scalar.TIME),
    always(4, "lastTransitionTime", Scalar.TIME),
    always(5, "reason"),
    always(6, "message"),
)
NODE_INFO: Final = tuple(
    always(number, name)
    for number, name in enumerate(
        (
            "machineID",
            "systemUUID",
            "bootID",
            "kernelVersion",
            "osImage",
            "containerRuntimeVersion",
            "kubeletVersion",
            "kubeProxyVersion",
            "operatingSystem",
            "architecture",
        ),
        1,
    )
)
NODE: Final = (
    always(1, "metadata", METADATA),
    always(
        2,
        "spec",
        (
            always(1, "podCIDR"),
            repeated(7, "podCIDRs"),
            always(3, "providerID"),
            always(4, "unschedulable", Scalar.BOOL),
            repeated(5, "taints", TAINT),
            always(2, "externalID"),
        ),
    ),
    always(
        3,
        "status",
        (
            where_set(1, "capacity", Scalar.QUANTITIES_BY_NAME),
            where_set(2, "allocatable", Scalar.QUANTITIES_BY_NAME),
            always(3, "phase"),
            repeated(4, "conditions", NODE_CONDITION),
            repeated(5, "addresses", (required(1, "type"), required(2, "address"))),
            always(
                6,
                "daemonEndpoints",
                (always(1, "kubeletEndpoint", (always(1, "Port", Scalar.NUMBER),)),),
            ),
            always(7, "nodeInfo", NODE_INFO),
        ),
    ),
)

SERVICE_CIDR: Final = (
    always(1, "metadata", METADATA),
    always(2, "spec", (repeated(1, "cidrs"),)),
    always(3, "status", (repeated(1, "conditions", CONDITION),)),
)

STATUS: Final = (
    always(1, "metadata", LIST_METADATA),
    always(2, "status"),
    always(3, "message"),
    always(4, "reason"),
    where_set(
        5,
        "details",
        (
            always(1, "name"),
            always(2, "group"),
            always(3, "kind"),
            repeated(4, "causes", (always(1, "reason"), always(2, "message"), always(3, "field"))),
            always(5, "retryAfterSeconds", Scalar.NUMBER),
            always(6, "uid"),
        ),
    ),
    always(6, "code", Scalar.NUMBER),
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Service": SERVICE,
    "EndpointSlice": ENDPOINT_SLICE,
    "Node": NODE,
    "ServiceCIDR": SERVICE_CIDR,
    "Status": STATUS,
    **{
        f"{kind}List": (always(1, "metadata", LIST_METADATA), repeated(2, "items", schema))
        for kind, schema in (
            ("Service", SERVICE),
            ("EndpointSlice", ENDPOINT_SLICE),
            ("Node", NODE),
            ("ServiceCIDR", SERVICE_CIDR),
        )
    },
}
"""Messages by kind."""
