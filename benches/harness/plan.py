"""The Service that is measured: three ports of one virtual IP, one pod behind each."""

from typing import Final

from kbe_nat.family import Family
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort

QUEUE: Final = 7
VIP: Final = "172.30.228.255"
POD: Final = "172.17.0.3"
PORTS: Final = (("udp", 7777), ("tcp", 5001), ("tcp", 5002))
PLAN: Final = Plan(
    tuple(
        PlannedPort(
            "default",
            f"bench{n}",
            "",
            protocol,
            Family.IPV4,
            (Frontend("cluster-ip", VIP, n),),
            (Backend(POD, n),),
            (),
        )
        for protocol, n in PORTS
    ),
    ("10.0.2.15",),
    options=Options(),
)
