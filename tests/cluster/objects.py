"""Objects as a real API server has them."""

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]


def service(
    name: str, address: str = "172.30.0.10", port: int = 80, protocol: str = "TCP"
) -> Object:
    return {
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "default",
            "creationTimestamp": "2026-11-28T09:00:40Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
        },
        "spec": {
            "ports": [{"protocol": protocol, "port": port, "targetPort": 9876}],
            "clusterIP": address,
            "clusterIPs": [address],
            "type": "ClusterIP",
            "ipFamilies": ["IPv6" if ":" in address else "IPv4"],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    service_name: str,
    addresses: Iterable[str],
    port: int = 9876,
    protocol: str = "TCP",
    name: str = "",
    node: str = "node-1",
) -> Object:
    listed = list(addresses)
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service_name}-abcde",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv6" if listed and ":" in listed[0] else "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": node,
            }
            for address in listed
        ],
        "ports": [{"name": "", "port": port, "protocol": protocol}],
    }


def node(name: str, address: str = "10.0.2.15") -> Object:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }
