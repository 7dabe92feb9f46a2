"""From a `Plan` to the native objects that the engine takes. Nothing is decided here."""

from functools import partial

from kbe_nat import _native
from kbe_nat.policy.options import Mode, unknown_port
from kbe_nat.policy.plan import LOAD_BALANCER, Backend, Plan, PlannedPort, unallocated
from kbe_nat.remembered import Remembered


class Tables:
    """Native service ports of the newest plan. One whose policy did not change is handed over
    again, with the balancer it has.
    """

    def __init__(self) -> None:
        self._ports = {
            mode: Remembered(partial(_native_port, is_nftables=mode is Mode.NFTABLES))
            for mode in Mode
        }

    def native(self, plan: Plan) -> tuple[list[_native.ServicePort], _native.NodeView]:
        """The arguments of `Engine.replace_services`. Cost: a comparison per service port, and the
        building of those that changed.
        """
        options = plan.options
        ports = self._ports[options.mode]
        findings = ports.findings(plan.ports, plan.changes)
        ports.keep(findings)
        view = _native.NodeView(
            addresses=plan.addresses,
            node_port_addresses=plan.node_port_addresses,
            pod_ranges=plan.pod_ranges,
            closed_addresses=plan.closed_addresses,
            every_loopback=plan.every_loopback,
            guards_loopback=plan.serves_localhost,
            pod_interfaces=options.pod_interfaces if options.pod_interface else None,
            masquerade_all=options.masquerade_all,
            unknown_port=unknown_port(options),
            unallocated=unallocated(plan),
            mode=options.mode,
        )
        return findings.all, view


def _native_port(policy: PlannedPort, *, is_nftables: bool) -> _native.ServicePort:
    ranges = policy.source_ranges
    if policy.allows_load_balancer_source:
        ranges += policy.addresses(LOAD_BALANCER)

    def backend(own: Backend) -> _native.Backend:
        # The rules of nftables mode know the endpoints of this node only.
        return _native.Backend(
            own.address, own.port, own.weight, hairpin=own.is_local or not is_nftables
        )

    return _native.ServicePort(
        policy.name,
        [_native.Frontend(own.address, own.port, own.kind) for own in policy.frontends],
        [backend(own) for own in policy.cluster_backends],
        protocol=policy.protocol,
        local_backends=[backend(own) for own in policy.local_backends],
        serving_backends=[backend(own) for own in policy.serving_backends],
        is_internal_local=policy.is_internal_local,
        is_external_local=policy.is_external_local,
        affinity_seconds=policy.affinity_seconds,
        source_ranges=[
            text if "/" in text else f"{text}/{128 if ':' in text else 32}" for text in ranges
        ],
        source_ranges_apply_to_all=policy.source_ranges_apply_to_all,
        strategy=policy.strategy,
    )
