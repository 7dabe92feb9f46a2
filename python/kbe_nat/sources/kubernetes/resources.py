"""The resources that a node proxy watches, with kube-proxy's own selectors."""

from collections.abc import Mapping

from msgspec import Struct

from kbe_nat.sources.snapshot import HEADLESS_LABEL, PROXY_NAME_LABEL


class Resource(Struct, frozen=True):
    """What is asked of the API server in one watch."""

    name: str
    """As in the path, such as endpointslices."""
    kind: str
    version: str
    """Of the API, such as discovery.k8s.io/v1."""
    selectors: Mapping[str, str] = {}
    """Query parameters that choose objects."""
    is_optional: bool = False
    """Whether the node serves without an answer: older clusters do not have the resource."""

    @property
    def path(self) -> str:
        """Below the server's address."""
        root = "api" if self.version == "v1" else "apis"
        return f"/{root}/{self.version}/{self.name}"


def watched_resources(
    node: str, proxy_name: str | None = None, *, has_service_ranges: bool = False
) -> tuple[Resource, ...]:
    """The resources for a node. With `proxy_name` Services of that proxy, without it those that
    name no proxy; ServiceCIDRs only in nftables mode, as kube-proxy does.
    """
    label = f"!{PROXY_NAME_LABEL}" if proxy_name is None else f"{PROXY_NAME_LABEL}={proxy_name}"
    resources = (
        Resource("nodes", "Node", "v1", {"fieldSelector": f"metadata.name={node}"}),
        Resource(
            "services",
            "Service",
            "v1",
            {"fieldSelector": "spec.clusterIP!=None", "labelSelector": label},
        ),
        Resource(
            "endpointslices",
            "EndpointSlice",
            "discovery.k8s.io/v1",
            {"labelSelector": f"!{HEADLESS_LABEL}"},
        ),
    )
    if not has_service_ranges:
        return resources
    ranges = Resource("servicecidrs", "ServiceCIDR", "networking.k8s.io/v1", is_optional=True)
    return (*resources, ranges)
