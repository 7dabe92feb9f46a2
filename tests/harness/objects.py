"""Parsed Kubernetes objects."""

from typing import Any

from kbe_nat.sources.decoding import decode
from kbe_nat.sources.objects import ParsedObject


def parsed(document: dict[str, Any], origin: str = "here") -> ParsedObject:
    [item] = decode(document, origin)
    assert isinstance(item, ParsedObject)
    return item


def service(name: str, **spec: Any) -> ParsedObject:
    return parsed({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


def slice_of(name: str, service: str, *addresses: str) -> ParsedObject:
    return parsed(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [address]} for address in addresses],
        }
    )


def pod(name: str, address: str, **labels: str) -> ParsedObject:
    metadata = {"name": name, "labels": labels}
    status = {"podIP": address}
    return parsed({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})
