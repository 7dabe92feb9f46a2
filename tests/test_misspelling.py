"""A field that was meant to be another one refuses its object; any other field does not."""

from typing import Any

import pytest
from msgspec import Struct

from kbe_nat.errors import ObjectError
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.misspelling import misspellings
from kbe_nat.sources.objects import (
    Container,
    EndpointObject,
    EndpointSliceObject,
    Ingress,
    Metadata,
    NodeSpec,
    NodeStatus,
    PodSpec,
    PodStatus,
    ServiceObject,
    ServicePortObject,
    ServiceSpec,
    SlicePortObject,
)

FIELDS: dict[type[Struct], str] = {
    Metadata: "name generateName namespace selfLink uid resourceVersion generation"
    " creationTimestamp deletionTimestamp deletionGracePeriodSeconds labels annotations"
    " ownerReferences finalizers managedFields",
    ServiceSpec: "ports selector clusterIP clusterIPs type externalIPs sessionAffinity"
    " loadBalancerIP loadBalancerSourceRanges externalName externalTrafficPolicy"
    " healthCheckNodePort publishNotReadyAddresses sessionAffinityConfig ipFamilies"
    " ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy"
    " trafficDistribution",
    ServicePortObject: "name protocol appProtocol port targetPort nodePort",
    Ingress: "ip hostname ipMode ports",
    EndpointSliceObject: "apiVersion kind metadata addressType endpoints ports",
    EndpointObject: "addresses conditions hostname targetRef deprecatedTopology nodeName zone"
    " hints",
    SlicePortObject: "name protocol port appProtocol",
    NodeSpec: "podCIDR podCIDRs providerID unschedulable taints configSource externalID",
    NodeStatus: "capacity allocatable phase conditions addresses daemonEndpoints nodeInfo images"
    " volumesInUse volumesAttached config runtimeHandlers features",
    PodSpec: "volumes initContainers containers ephemeralContainers restartPolicy nodeSelector"
    " serviceAccountName nodeName hostNetwork hostname subdomain affinity hostnameOverride",
    PodStatus: "phase conditions message reason nominatedNodeName hostIP hostIPs podIP podIPs"
    " startTime initContainerStatuses containerStatuses qosClass resize",
    Container: "name image command args workingDir ports envFrom env resources resizePolicy"
    " restartPolicy restartPolicyRules volumeMounts livenessProbe readinessProbe startupProbe",
}
"""Kubernetes 1.36, kinds by kind."""


@pytest.mark.parametrize("of", FIELDS, ids=lambda of: of.__name__)
def test_no_field_of_kubernetes_is_taken_for_another(of: type[Struct]) -> None:
    for name in FIELDS[of].split():
        assert list(misspellings({name: None}, of)) == []


@pytest.mark.parametrize(
    ("document", "path", "meant"),
    [
        ({"spec": {"prots": []}}, "spec.prots", "ports"),
        ({"spec": {"sessionAffinty": "ClientIP"}}, "spec.sessionAffinty", "sessionAffinity"),
        ({"spec": {"port": 80}}, "spec.port", "ports"),
        ({"metdata": {}}, "metdata", "metadata"),
        (
            {"spec": {"ports": [{"port": 80}, {"port": 81, "targetport": 8}]}},
            "spec.ports[1].targetport",
            "targetPort",
        ),
    ],
)
def test_a_slip_is_named_with_its_path(document: dict[str, Any], path: str, meant: str) -> None:
    assert list(misspellings(document, ServiceObject)) == [(path, meant)]


def test_a_field_beside_the_one_that_it_is_like_is_none() -> None:
    assert list(misspellings({"spec": {"ports": [], "prots": []}}, ServiceObject)) == []


def test_its_object_is_refused_and_others_are_not() -> None:
    def service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}

    items = [service("a", {"selectr": {"app": "a"}}), service("b", {})]
    bad, good = decode({"apiVersion": "v1", "kind": "List", "items": items}, "f")
    assert isinstance(bad, ObjectError)
    assert str(bad) == (
        "f, items[0]: Service a: spec.selectr: there is no such field; did you mean selector?"
    )
    assert not isinstance(good, ObjectError)
