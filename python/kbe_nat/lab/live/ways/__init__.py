"""Ways through a node by their names. `register` adds one from outside."""

from typing import Final

from kbe_nat.lab.live.ways.engine import Driver
from kbe_nat.lab.live.ways.haproxy import Haproxy
from kbe_nat.lab.live.ways.ipvs import Ipvs
from kbe_nat.lab.live.ways.kernel import Flowtable, Forward, IptablesDnat, NftDnat
from kbe_nat.lab.live.ways.kube_proxy import KubeProxyIptables, KubeProxyNft
from kbe_nat.lab.live.ways.way import Way

_KINDS: Final[tuple[Way, ...]] = (
    Forward(),
    IptablesDnat(),
    NftDnat(),
    Flowtable(),
    Ipvs(),
    KubeProxyIptables(),
    KubeProxyIptables("-legacy"),
    KubeProxyNft(),
    Haproxy(),
    Driver("netfilterqueue-reference", is_static=True),
    Driver("netfilterqueue-engine"),
    Driver("every-packet"),
    Driver("first-packet"),
    Driver("kernel-choice"),
    Driver("cached"),
)
WAYS: Final[dict[str, Way]] = {way.name: way for way in _KINDS}
"""In the order in which they are shown."""


def register(way: Way) -> None:
    """Add a way, such as a yardstick that does not ship."""
    WAYS[way.name] = way
