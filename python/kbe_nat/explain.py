"""The fate of a packet, and why: the engine's reasons, and the reasons that policy adds.

The engine says what it would do, by its tables. The plan says which endpoints it never heard of,
and by which of kube-proxy's chains the packet would have come to its backend. The datapath says
what the kernel makes of the verdict. All of it is one `ExplanationRow`, for a daemon and offline.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

import msgspec

from kbe_nat import packets as wire
from kbe_nat._native import Explanation
from kbe_nat.family import Family
from kbe_nat.kubeproxy.chains import chains
from kbe_nat.kubeproxy.settings import matches
from kbe_nat.model import Snapshot
from kbe_nat.policy.endpoints import exclusions
from kbe_nat.policy.plan import CLUSTER_IP, Plan, PlannedPort
from kbe_nat.port_rows import OptionalPortRow, optional_port_fields
from kbe_nat.rules.rule import DatapathKind


class ExplanationRow(OptionalPortRow, frozen=True):
    """Why a packet gets its verdict."""

    action: str
    """The verdict: translate, reject, drop, pass or hold."""
    cause: str
    """Its counter."""
    frontend: str | None
    """The kind of the frontend, such as cluster-ip."""
    scope: str | None
    """Which endpoints serve it: cluster or local."""
    backend: str | None
    """The backend that the next such packet gets; null where the kernel chooses among several."""
    is_chosen_by_kernel: bool
    """Whether the kernel chooses the backend of new connections here, and the engine does not."""
    candidates: list[str]
    """Every backend that it may be sent to."""
    refused: list[tuple[str, str, str]]
    """Backends whose address is a frontend that refuses it, with action and cause."""
    masquerade: bool
    """Whether the source is masqueraded for that backend."""
    masqueraded: list[str]
    """Candidates for which it is."""
    steps: list[tuple[str, str]]
    """Each check, with its result."""
    excluded: list[tuple[str, str]]
    """Endpoints of the service port that may not serve, with the reason."""
    chains: list[str]
    """kube-proxy's chains on the way to the backend."""
    kernel: dict[str, str]
    """The kernel's part in it, by datapath."""


class RefusedEndpoint(msgspec.Struct, frozen=True):
    """A backend whose address is a frontend that refuses the packet."""

    endpoint: str
    """Address and port."""
    verdict: str
    """Of that frontend: reject or drop."""
    reason: str
    """The cause."""


class ExcludedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of the service port that may not serve the packet."""

    endpoint: str
    """Address and port."""
    reason: str
    """Why not."""


class VerdictRow(OptionalPortRow, frozen=True, kw_only=True):
    """`explain`: the outcome for one packet."""

    packet: str | msgspec.UnsetType = msgspec.UNSET
    """Its name, where a list of packets names it."""
    verdict: str
    """translate, reject, drop, pass or hold."""
    destinations: list[str]
    """Every endpoint that it may be sent to."""
    backend: str | None
    """The endpoint that this packet is sent to; null where the kernel chooses among several."""
    masquerade: bool | str
    """Whether the source is masqueraded; mixed: for some destinations."""
    masqueraded: list[str] | msgspec.UnsetType = msgspec.UNSET
    """These destinations, where it is mixed."""
    refused: list[RefusedEndpoint]
    """Endpoints whose address is a frontend that refuses it."""
    excluded: list[ExcludedEndpoint]
    """Endpoints that may not serve it."""
    chains: list[str]
    """kube-proxy's chains on the way to the backend."""
    kernel: dict[str, str]
    """The kernel's part in it, by datapath."""
    reasons: list[str]
    """Each check, with its result."""


def verdict_of(explanation: ExplanationRow, name: str = "") -> VerdictRow:
    """The outcome that an explanation describes."""
    verdict = explanation.action
    refused = [RefusedEndpoint(*refusal) for refusal in explanation.refused]
    is_refused_backend = any(row.endpoint == explanation.backend for row in refused)
    if is_refused_backend and explanation.candidates:
        # The next such packet is refused, but the question is what may happen.
        verdict = "translate"
    destinations = sorted(explanation.candidates) if verdict == "translate" else []
    masqueraded = sorted(set(explanation.masqueraded) & set(destinations))
    is_mixed = 0 < len(masqueraded) < len(destinations)
    is_masqueraded = bool(masqueraded) if destinations else explanation.masquerade
    return VerdictRow(
        **optional_port_fields(explanation.service),
        packet=name or msgspec.UNSET,
        verdict=verdict,
        destinations=destinations,
        backend=explanation.backend if verdict == "translate" and not is_refused_backend else None,
        masquerade=MIXED_MASQUERADE if is_mixed else is_masqueraded and verdict == "translate",
        masqueraded=masqueraded if is_mixed else msgspec.UNSET,
        refused=refused,
        excluded=[ExcludedEndpoint(*exclusion) for exclusion in explanation.excluded],
        chains=explanation.chains,
        kernel=explanation.kernel,
        reasons=[f"{check}: {finding}" for check, finding in explanation.steps],
    )


def sentence(packet: bytes, explanation: ExplanationRow) -> str:
    """The outcome for a packet in a sentence."""
    verdict = verdict_of(explanation)
    ends = wire.ends(packet)
    subject = "A packet that cannot be read"
    if ends is not None:
        source, destination = wire.show(ends.source), wire.show(ends.destination)
        subject = f"{ends.protocol.upper()} {source} to {destination}"
    service = f" by {verdict.service}" if verdict.service else ""
    several = "one of several endpoints"
    if explanation.is_chosen_by_kernel:
        several = _drawn_endpoints(verdict.destinations)
    outcome = {
        "translate": f"is sent to {verdict.backend or several}{service}",
        "pass": "passes",
        "reject": f"is rejected{service} ({explanation.cause})",
        "drop": f"is dropped{service} ({explanation.cause})",
        "hold": "waits for the first fragment of its datagram",
    }[verdict.verdict]
    return f"{subject} {outcome}."


def _drawn_endpoints(endpoints: list[str]) -> str:
    """The endpoints among which the kernel chooses, in words."""
    listed = ", ".join(endpoints[:MAX_LISTED])
    others = f" and {len(endpoints) - MAX_LISTED} more" if len(endpoints) > MAX_LISTED else ""
    return f"one of {len(endpoints)} endpoints, which the kernel draws ({listed}{others}),"


def device_of(packet: bytes, plan: Plan, name: str = "") -> int:
    """The number of the device by which a described packet comes in: 0 for the node's own packets,
    that of a pod's device where `name` is one of them, else any other. Without a name it is eth0.

    One rule for daemons and files: a source that the plan does not know as the node's is beyond it.
    """
    ends = wire.ends(packet)
    source = ends.source[0] if ends else ""
    if source in plan.addresses or (source and ip_address(source).is_loopback):
        return 0
    options = plan.options
    is_pod = matches(options.pod_interface, name or DEFAULT_DEVICE)
    return options.pod_interfaces[0] if is_pod and options.pod_interfaces else OTHER_INTERFACE


def explain_packet(
    explanation: Explanation,
    kinds: Iterable[DatapathKind] = DatapathKind,
    *,
    excluded: Iterable[tuple[str, str]] = (),
    chains: Iterable[str] = (),
    is_chosen_by_kernel: bool = False,
) -> ExplanationRow:
    """The engine's reasons as a row, and what the kernel does with `kinds` of datapaths. With
    `is_chosen_by_kernel` the engine's choice for a new connection is left out.
    """
    row = ExplanationRow(
        **optional_port_fields(explanation.service),
        action=explanation.action,
        cause=explanation.cause,
        frontend=explanation.frontend,
        scope=explanation.scope,
        backend=explanation.backend,
        is_chosen_by_kernel=is_chosen_by_kernel,
        candidates=explanation.candidates,
        refused=explanation.refused,
        masquerade=explanation.masquerade,
        masqueraded=explanation.masqueraded,
        steps=explanation.steps,
        excluded=list(excluded),
        chains=list(chains),
        kernel={str(kind): _kernel_part(explanation, kind) for kind in kinds},
    )
    return _chosen_by_kernel(row) if is_chosen_by_kernel else row


def _chosen_by_kernel(row: ExplanationRow) -> ExplanationRow:
    """A row for a frontend whose new connections the kernel chooses for."""
    note = ("choice", "the kernel chooses for new connections here, and they wait for nobody")
    # A packet of a known flow, or one that no Service serves, has no scope: there is no choice.
    if row.scope is None:
        kernel = row.kernel
        if row.action == "translate":
            kernel = dict.fromkeys(kernel, CARRIED_BY_KERNEL)
        return msgspec.structs.replace(row, steps=[*row.steps, note], kernel=kernel)
    if not row.candidates:
        return row
    masqueraded = set(row.masqueraded) & set(row.candidates)
    source = ""
    if masqueraded:
        to = "" if len(masqueraded) == len(set(row.candidates)) else f" towards {SOME_ENDPOINTS}"
        source = f"; the source is masqueraded{to}"
    steps = [step for step in row.steps if step[0] not in ENGINE_STEPS]
    verdict = ("verdict", "translate (new: it opens a flow to an endpoint of the kernel's choice)")
    return msgspec.structs.replace(
        row,
        # Whatever the engine's own draw would meet, the kernel's is another.
        action="translate",
        cause="new",
        backend=row.candidates[0] if len(row.candidates) == 1 else None,
        masquerade=bool(masqueraded),
        steps=[*steps, note, verdict],
        kernel=dict.fromkeys(row.kernel, f"{DRAWN_BY_KERNEL}{source}"),
    )


def explain_in_plan(
    explanation: Explanation,
    packet: bytes,
    snapshot: Snapshot,
    plan: Plan,
    kinds: Iterable[DatapathKind] = DatapathKind,
    *,
    is_chosen_by_kernel: bool = False,
) -> ExplanationRow:
    """As `explain_packet`, with what the plan of the engine's tables adds. Cost: linear in the
    service ports.
    """
    family = Family.IPV6 if packet[:1] and packet[0] >> 4 == Family.IPV6 else Family.IPV4
    port = next(
        (port for port in plan.ports if (port.name, port.family) == (explanation.service, family)),
        None,
    )
    if port is None or explanation.frontend is None:
        return explain_packet(explanation, kinds, is_chosen_by_kernel=is_chosen_by_kernel)
    mode = plan.options.mode
    path: list[str] = []
    # What no chain refuses, such as a martian source, the kernel's routing or our engine does.
    if explanation.scope is not None or explanation.cause in REFUSED_BY_CHAINS:
        is_drawn = is_chosen_by_kernel and len(explanation.candidates) > 1
        backend = None if is_drawn else explanation.backend
        path = chains(port, explanation.frontend, explanation.scope, backend, mode)
    excluded = exclusions(
        snapshot, port, plan.options, is_local=_is_local(explanation, explanation.frontend, port)
    )
    return explain_packet(
        explanation,
        kinds,
        excluded=sorted(excluded.items()),
        chains=path,
        is_chosen_by_kernel=is_chosen_by_kernel,
    )


def _is_local(explanation: Explanation, frontend: str, port: PlannedPort) -> bool:
    """Whether the node's own endpoints were asked for. A packet that is refused has no scope: its
    traffic policy says where endpoints were looked for.
    """
    if explanation.scope is not None:
        return explanation.scope == "local"
    return port.is_internal_local if frontend == CLUSTER_IP else port.is_external_local


def _kernel_part(explanation: Explanation, kind: DatapathKind) -> str:
    action = explanation.action
    part = KERNEL_PART_BY_DATAPATH.get((action, kind)) or KERNEL_PART[action]
    if not explanation.masquerade:
        return part
    return f"{part}; the source is masqueraded, by another bit of the mark"


OTHER_INTERFACE: Final = 2**32 - 1
"""A number that stands for a device of the node behind which no pods are; the kernel counts up from
1.
"""
DEFAULT_DEVICE: Final = "eth0"
REFUSED_BY_CHAINS: Final = ("no-endpoints", "no-local-endpoints", "source-range")
"""Causes for which kube-proxy has a chain that refuses the packet."""
MIXED_MASQUERADE: Final = "mixed"
MAX_LISTED: Final = 5
"""Endpoints that a sentence names."""
SOME_ENDPOINTS: Final = "some of them"
ENGINE_STEPS: Final = ("strategy", "second look", "hairpin", "delivery", "room", "verdict")
"""Steps about the backend that the engine would choose."""
DRAWN_BY_KERNEL: Final = (
    "it chooses the endpoint of a new connection by its own rules, without a mark, and carries all"
    " packets by itself"
)
CARRIED_BY_KERNEL: Final = "it carries the connection and translates all its packets by itself"
KERNEL_PART_BY_DATAPATH: Final = {
    (
        "translate",
        DatapathKind.EVERY_PACKET,
    ): "it gets this packet back with new addresses, and every later one likewise",
    (
        "translate",
        DatapathKind.FIRST_PACKET,
    ): "it translates the connection by the backend's number in the packet's mark, "
    "and carries all later packets by itself",
    (
        "translate",
        DatapathKind.CACHED,
    ): "it translates the connection by the backend's number in the packet's mark, "
    "and carries all later packets by itself, most of them past its stack",
    **dict.fromkeys(
        (("pass", DatapathKind.FIRST_PACKET), ("pass", DatapathKind.CACHED)),
        "it lets the packet go on as it is, and does not choose by itself",
    ),
}
"""The kernel's part where the datapaths differ."""
KERNEL_PART: Final = {
    "pass": "it lets the packet go on as it is",
    "reject": "a rule answers for it, by the packet's mark: ICMP port unreachable, or a RST if so"
    " asked",
    "drop": "it drops the packet",
    "hold": "it keeps the packet until the verdict on its first fragment",
}
