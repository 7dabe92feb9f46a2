"""Ways through a node that stand beside each other, each on a network of its own, so that they can
be measured in turns of a few milliseconds: what slows the machine then slows all of them alike.

Absolute times of two runs on a shared machine differ by up to two. What counts is each round's own
ratio to nft DNAT in the same round, its median and quartiles, and the least of all rounds, which
strangers' load can only raise.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, TypedDict

from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import PODS
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.live.ways.way import Served
from kbe_nat.model import Snapshot
from kbe_nat.playground.cluster import wire_ipv6, wire_node

BASELINE: Final = "nft-dnat"
"""The way that others are compared with."""
GATEWAYS: Final = {Family.IPV4: "169.254.1.1", Family.IPV6: "fe80::1"}
"""Of pods: addresses of the node's end of their wire."""


class RoutedNetwork(Network):
    """Pods that the node reaches by a route and a wire each, without a bridge, as most CNIs do."""

    def wire(self) -> None:
        """See `Network`."""
        wire_node(self.node, self.client)
        wire_ipv6(self.node, self.client, {})
        for position, pod in enumerate(self.pods):
            near = f"veth{position}"
            peer = ("peer", "name", "eth0", "netns", pod.name)
            self.node.call("ip", "link", "add", near, "type", "veth", *peer)
            self.node.call("ip", "link", "set", near, "up")
            pod.call("ip", "link", "set", "eth0", "up")
            for family, gateway in GATEWAYS.items():
                length = 32 if family is Family.IPV4 else 128
                address = f"{PODS[family][position]}/{length}"
                more = () if family is Family.IPV4 else ("nodad",)
                self.node.call("ip", "address", "add", f"{gateway}/{length}", "dev", near, *more)
                pod.call("ip", "address", "add", address, "dev", "eth0", *more)
                pod.call("ip", "route", "add", gateway, "dev", "eth0")
                pod.call("ip", "route", "add", "default", "via", gateway, "dev", "eth0")
                self.node.call("ip", "route", "add", address, "dev", near)


@contextmanager
def standing(ways: Mapping[str, str], objects: Snapshot) -> Iterator[dict[str, Served]]:
    """These ways, by names of theirs, each of which serves the objects. Those that this machine
    cannot run are left out, with a line that says why.
    """
    with ExitStack() as stack:
        served = {}
        for name, way in ways.items():
            reason = WAYS[way].missing()
            if reason is not None:
                print(f"{name} is left out: {reason}")
                continue
            network = stack.enter_context(RoutedNetwork())
            served[name] = stack.enter_context(WAYS[way].serve(network, objects))
        yield served


class Compared(TypedDict):
    """What the rounds of a way say."""

    least: float
    """Of all rounds; of rates the most."""
    median: float
    least_ratio: float
    """To the baseline's least."""
    ratio_p25: float
    """Of the rounds' own ratios to the baseline."""
    ratio_p50: float
    ratio_p75: float


def compare(
    samples: Sequence[float],
    baseline: Sequence[float],
    less: Sequence[float] | None = None,
    *,
    is_rate: bool = False,
) -> Compared:
    """A way's rounds beside the baseline's. `less` is what each round takes off both."""
    less = less or [0.0] * len(samples)
    best = max if is_rate else min
    rounds = zip(samples, baseline, less, strict=True)
    ratios = [(value - off) / (base - off) for value, base, off in rounds if base > off]
    low, middle, high = statistics.quantiles(ratios, n=4)
    least = best(samples) - best(less)
    return Compared(
        least=least,
        median=statistics.median(samples) - statistics.median(less),
        least_ratio=least / (best(baseline) - best(less)),
        ratio_p25=low,
        ratio_p50=middle,
        ratio_p75=high,
    )
