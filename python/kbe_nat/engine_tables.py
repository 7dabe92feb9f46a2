"""From a `Plan` to the native objects that the engine takes. Nothing is decided here."""

from typing import cast

from kbe_nat import _native, words
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.options import Mode, unknown_port
from kbe_nat.policy.plan import LOAD_BALANCER, Backend, Plan, PlannedPort, unallocated


class EngineTables:
    """A `PlanConsumer`: the service ports and the node's view that an engine decides by."""

    def __init__(self, engine: _native.Engine) -> None:
        self._engine = engine

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`. Another mode makes all service ports anew. Raises `ServiceError`;
        nothing is changed then.
        """
        plan, mode = delta.plan, delta.plan.options.mode
        if mode is not delta.former.options.mode:
            self.rebuild(plan)
            return
        before = [old.port for old, _ in delta.pairs() if old]
        after = [new.port for _, new in delta.pairs() if new]
        present = {port.key for port in after}
        removed = [port for port in before if port.key not in present]
        self._engine.update_services(
            [native_port(port, mode) for port in after],
            [(port.name, port.family) for port in removed],
            native_node(plan) if delta.is_context_changed else None,
        )

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`; raises as `apply`."""
        self._engine.replace_services(*native_tables(plan))


def native_tables(plan: Plan) -> tuple[list[_native.ServicePort], _native.NodeView]:
    """The arguments of `Engine.replace_services`. Cost: linear in the plan."""
    mode = plan.options.mode
    return [native_port(port, mode) for port in plan.ports], native_node(plan)


def native_node(plan: Plan) -> _native.NodeView:
    """The engine's view of the node."""
    options, node_ports = plan.options, plan.node_ports
    return _native.NodeView(
        addresses=plan.addresses,
        node_ports=_native.NodePorts(
            node_ports.addresses,
            wildcard_families=node_ports.wildcard_families,
            reject_addresses=node_ports.reject_addresses,
            loopback=node_ports.loopback,
        ),
        pod_ranges=plan.pod_ranges,
        pod_interfaces=options.pod_interfaces if options.pod_interface else None,
        masquerade_all=options.masquerade_all,
        unknown_port=cast(words.UnknownPort, unknown_port(options)),
        unallocated=unallocated(plan),
        mode=cast(words.Mode, options.mode),
    )


def native_port(port: PlannedPort, mode: Mode) -> _native.ServicePort:
    """A service port with its backends, as the engine takes it."""
    ranges = port.source_ranges
    if port.allows_load_balancer_source:
        ranges += port.addresses(LOAD_BALANCER)

    def native_backend(backend: Backend) -> _native.Backend:
        # The rules of nftables mode know the endpoints of this node only.
        hairpin = backend.is_local or mode is not Mode.NFTABLES
        return _native.Backend(backend.address, backend.port, backend.weight, hairpin=hairpin)

    return _native.ServicePort(
        port.name,
        [
            _native.Frontend(
                frontend.address, frontend.port, cast(words.FrontendKind, frontend.kind)
            )
            for frontend in port.frontends
        ],
        [native_backend(backend) for backend in port.cluster_backends],
        family=port.family,
        protocol=cast(words.Protocol, port.protocol),
        local_backends=[native_backend(backend) for backend in port.local_backends],
        serving_backends=[native_backend(backend) for backend in port.serving_backends],
        is_internal_local=port.is_internal_local,
        is_external_local=port.is_external_local,
        affinity_seconds=port.affinity_seconds,
        source_ranges=[
            text if "/" in text else f"{text}/{128 if ':' in text else 32}" for text in ranges
        ],
        source_ranges_apply_to_all=port.source_ranges_apply_to_all,
        strategy=port.strategy,
        # The API server takes endpoints that lead back, and so does kube-proxy.
        validate=False,
    )
