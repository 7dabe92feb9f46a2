"""How `playground get` lists each kind: kubectl's columns."""

from typing import Any, Final

from kbe_nat.cli.listing import Column, Listing
from kbe_nat.playground.rows import ControllerRow, EndpointsRow, PodRow, ServiceObjectRow


def age_text(seconds: int) -> str:
    """Seconds as kubectl writes an age."""
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"


GAP: Final = 3
NAME: Final = Column[Any]("NAME", lambda row: row.name)
AGE: Final = Column[Any]("AGE", lambda row: age_text(row.seconds), is_clock=True)
PODS: Final = Listing[PodRow](
    "PlaygroundPod",
    (
        NAME,
        Column("READY", lambda row: f"{int(row.ready)}/1"),
        Column("STATUS", lambda row: row.status),
        Column("RESTARTS", lambda row: row.restarts),
        AGE,
        Column("IP", lambda row: row.address, is_wide=True),
    ),
    lambda row: f"pod/{row.name}",
    GAP,
    is_one_row=True,
)
SERVICES: Final = Listing[ServiceObjectRow](
    "PlaygroundService",
    (
        NAME,
        Column("CLUSTER-IP", lambda row: row.cluster_ip or "<pending>"),
        Column("EXTERNAL-IP", lambda row: ",".join(row.external_ips) or "<none>"),
        Column("PORT(S)", lambda row: ",".join(row.ports)),
        AGE,
    ),
    lambda row: f"service/{row.name}",
    GAP,
    is_one_row=True,
)
CONTROLLERS: Final = Listing[ControllerRow](
    "PlaygroundController",
    (
        NAME,
        Column("DESIRED", lambda row: row.desired),
        Column("CURRENT", lambda row: row.current),
        Column("READY", lambda row: row.ready),
        AGE,
    ),
    lambda row: f"replicationcontroller/{row.name}",
    GAP,
    is_one_row=True,
)
ENDPOINTS: Final = Listing[EndpointsRow](
    "PlaygroundEndpoints",
    (NAME, Column("ENDPOINTS", lambda row: ",".join(row.endpoints) or "<none>")),
    lambda row: f"endpoints/{row.name}",
    GAP,
    is_one_row=True,
)
VIEWS: Final[dict[str, Listing[Any]]] = {
    "pods": PODS,
    "services": SERVICES,
    "replicationcontrollers": CONTROLLERS,
    "endpoints": ENDPOINTS,
}
