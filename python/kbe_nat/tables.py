"""From a `Plan` to the native objects that the engine takes. Nothing is decided here."""

from kbe_nat import _native
from kbe_nat.policy import LOAD_BALANCER, Plan, PortPolicy


class Tables:
    """Native service ports of the newest plan. One whose policy did not change is handed over again, with the
    balancer it has.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], tuple[PortPolicy, _native.ServicePort]] = {}

    def native(self, plan: Plan) -> tuple[list[_native.ServicePort], _native.NodeView]:
        """The arguments of `Engine.replace_services`. Cost: a comparison per service port, and the building
        of those that changed.
        """
        known = {}
        for policy in plan.ports:
            key = (policy.name, policy.protocol, policy.family)
            before = self._known.get(key)
            known[key] = before if before and before[0] == policy else (policy, _native_port(policy))
        self._known = known
        options = plan.options
        view = _native.NodeView(
            addresses=plan.addresses,
            node_port_addresses=plan.node_port_addresses,
            pod_ranges=plan.pod_ranges,
            pod_interfaces=options.pod_interfaces,
            masquerade_all=options.masquerade_all,
            unknown_port=options.unknown_port,
        )
        return [port for _, port in known.values()], view


def _native_port(policy: PortPolicy) -> _native.ServicePort:
    ranges = policy.source_ranges
    if policy.admits_own_addresses:
        ranges += policy.addresses(LOAD_BALANCER)
    return _native.ServicePort(
        policy.name,
        [_native.Frontend(own.address, own.port, own.kind) for own in policy.listeners],
        [_native.Backend(own.address, own.port, own.weight) for own in policy.cluster],
        protocol=policy.protocol,
        local_backends=[_native.Backend(own.address, own.port, own.weight) for own in policy.local],
        internal_local=policy.is_internal_local,
        external_local=policy.is_external_local,
        affinity_seconds=policy.affinity_seconds,
        source_ranges=[text if "/" in text else f"{text}/{128 if ':' in text else 32}" for text in ranges],
        strategy=policy.strategy,
    )
