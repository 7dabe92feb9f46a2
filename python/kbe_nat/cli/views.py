"""How `get` lists each kind: the columns of its rows."""

from collections.abc import Callable
from typing import Any, Final

from kbe_nat.cli.listing import Column, Listing
from kbe_nat.cli.output import connect, traffic
from kbe_nat.daemon.rows import (
    EndpointRow,
    FlowRow,
    FrontendRow,
    NodeRow,
    ServiceRow,
    SliceRow,
)
from kbe_nat.model import join_address


def frontend_text(frontend: FrontendRow) -> str:
    """Kind and place of a frontend."""
    return f"{frontend.kind} {place_text(frontend)}"


def place_text(frontend: FrontendRow) -> str:
    """Address and port; a star stands for every address of the node."""
    if frontend.address is None:
        return f"*:{frontend.port}"
    return join_address(frontend.address, frontend.port)


def _addresses(row: ServiceRow, *kinds: str) -> str:
    """The first address of these kinds, and how many more there are, without a blank."""
    addresses = [each.address for each in row.frontends if each.kind in kinds and each.address]
    if not addresses:
        return "<none>"
    more = len(addresses) - 1
    return f"{addresses[0]},+{more}-more" if more else addresses[0]


def _ports(row: ServiceRow) -> str:
    """As kubectl writes them: 80/TCP, or 80:30080/TCP with a node port."""
    ports = [str(each.port) for each in row.frontends if each.kind != "node-port"]
    ports[1:] = [f":{each.port}" for each in row.frontends if each.kind == "node-port"][:1]
    return f"{''.join(ports)}/{row.protocol.upper()}"


def _frontends(row: ServiceRow) -> str:
    """All of them, each as KIND:ADDRESS:PORT, without a blank."""
    return ",".join(f"{each.kind}:{place_text(each)}" for each in row.frontends)


def _endpoints(row: ServiceRow) -> str:
    """How many there are, and how many of them get no new connections."""
    return f"{row.backends},{row.draining}-draining" if row.draining else str(row.backends)


def labels_text(row: ServiceRow) -> str:
    """As kubectl writes them."""
    return ",".join(f"{key}={value}" for key, value in row.labels.items()) or "<none>"


def _traffic(place: int) -> Callable[[Any], str]:
    return lambda row: traffic(row.packets, row.bytes)[place]


def _mark(row: FlowRow) -> str:
    mark = row.kernel.mark if row.kernel else None
    return "-" if mark is None else f"{mark:#x}"


def _seconds(value: int | None) -> str:
    return "<none>" if value is None else f"{value}s"


TRAFFIC: Final = tuple(
    Column[Any](title, _traffic(place), is_wide=True)
    for place, title in enumerate(("packets", "packets-back", "bytes", "bytes-back"))
)
CONNECT: Final = (
    Column[Any]("connect-p50", lambda row: connect(row.connect)[0], is_wide=True),
    Column[Any]("connect-p99", lambda row: connect(row.connect)[1], is_wide=True),
)
"""From SYN to SYN-ACK."""
SERVICES: Final = Listing[ServiceRow](
    "Service",
    (
        Column("service", lambda row: row.service),
        Column("type", lambda row: row.type),
        Column("cluster-ip", lambda row: row.cluster_ip or "<none>"),
        Column("external-ip", lambda row: _addresses(row, "load-balancer", "external-ip")),
        Column("port(s)", _ports),
        Column("strategy", lambda row: row.strategy),
        Column("endpoints", _endpoints),
        Column("active", lambda row: row.active),
        Column("flows", lambda row: row.flows),
        Column("affinity", lambda row: _seconds(row.affinity_seconds), is_wide=True),
        *TRAFFIC,
        *CONNECT,
        Column("refused", lambda row: sum(row.refused.values()), is_wide=True),
        Column("frontends", lambda row: _frontends(row), is_wide=True),
    ),
    lambda row: f"service/{row.service}",
    spare=("external-ip", "strategy", "type", "flows", "active", "endpoints"),
    labels=labels_text,
    is_one_row=True,
)
ENDPOINTS: Final = Listing[EndpointRow](
    "Endpoint",
    (
        Column("service", lambda row: row.service),
        Column("backend", lambda row: row.backend),
        Column("weight", lambda row: row.weight),
        Column("state", lambda row: row.state or "<none>"),
        Column("active", lambda row: row.active),
        Column("flows", lambda row: row.flows),
        *TRAFFIC,
        *CONNECT,
    ),
    lambda row: f"endpoints/{row.service}",
    spare=("weight", "flows", "active"),
)
SLICES: Final = Listing[SliceRow](
    "EndpointSlice",
    (
        Column("name", lambda row: f"{row.namespace}/{row.name}"),
        Column("service", lambda row: row.service),
        Column("addresstype", lambda row: f"IPv{row.family}"),
        Column("ports", lambda row: ",".join(row.ports) or "<unset>"),
        Column("ready", lambda row: f"{row.ready}/{len(row.endpoints)}"),
        Column("endpoints", lambda row: ",".join(row.endpoints) or "<none>"),
    ),
    lambda row: f"endpointslice/{row.namespace}/{row.name}",
    spare=("addresstype", "ports", "service"),
    is_one_row=True,
)
NODES: Final = Listing[NodeRow](
    "Node",
    (
        Column("name", lambda row: row.name),
        Column("zone", lambda row: row.zone or "<none>"),
        Column("eligible", lambda row: "yes" if row.is_eligible else "no"),
        Column("addresses", lambda row: ",".join(row.addresses) or "<none>"),
        Column("pod-ranges", lambda row: ",".join(row.pod_ranges) or "<none>", is_wide=True),
    ),
    lambda row: f"node/{row.name}",
    spare=("zone",),
    is_one_row=True,
)
FLOWS: Final = Listing[FlowRow](
    "Flow",
    (
        Column("protocol", lambda row: row.protocol),
        Column("state", lambda row: row.state or ("replied" if row.replied else "unreplied")),
        Column("client", lambda row: row.source),
        Column("frontend", lambda row: row.destination),
        Column("backend", lambda row: row.reply_source),
        Column("service", lambda row: row.service),
        Column("timeout", lambda row: f"{row.timeout}s", is_clock=True),
        Column("age", lambda row: f"{row.age}s", is_wide=True, is_clock=True),
        Column("reply-to", lambda row: row.reply_destination, is_wide=True),
        Column("mark", _mark, is_wide=True),
        *TRAFFIC,
    ),
    spare=("timeout", "protocol", "state", "service"),
)
