"""Decisions that were made when a daemon was built, for its log, its status and its pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kbe_nat.daemon.cluster_events import ClusterEvents
from kbe_nat.daemon.settings import Driver
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.rules.rule import DatapathKind


@dataclass(frozen=True, slots=True)
class Facts:
    """Decisions that were made when a daemon was built."""

    datapath: DatapathKind
    reason: str
    """Why this datapath."""
    driver: Driver
    queues: range
    """Their numbers."""
    rules: str
    """The name of the rule installer, for people."""
    seed: int
    other_proxies: tuple[str, ...]
    """Where rules of kube-proxy stand."""
    lends_net_raw: bool
    """Whether commands have CAP_NET_RAW, see `privileges`."""

    @property
    def queue_text(self) -> str:
        """The numbers of the queues, for people."""
        first, last = self.queues[0], self.queues[-1]
        return f"{first}" if first == last else f"{first} to {last}"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What operators wrote, for the pages that show it."""

    flags: Mapping[str, str] = field(default_factory=dict)
    """The flags of the command line with their values."""
    is_expected: bool = False
    """Its Node is asked for, so that one which is not there is missing."""
    requests: RestMetrics = field(default_factory=RestMetrics)
    """To the API server."""
    events: ClusterEvents | None = None
    """For the cluster's operators; None without a cluster."""
