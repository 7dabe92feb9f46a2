"""What becomes of each field of the configuration file when it changes under a running daemon.

Fields are named by their path in the file, or by the section that has them. Each is in one of these
tables: `LIVE` says when a change is in force, `RESTART` why it is not, and `INAPPLICABLE` (see
there) why it never is. `docs/configuration-fields.md` is made of them.
"""

from collections.abc import Iterable
from typing import Final

from kbe_nat.kubeproxy.inapplicable import INAPPLICABLE


def is_within(path: str, places: Iterable[str]) -> bool:
    """Whether one of these is the field, or a section that holds it."""
    return any(f"{path}.".startswith(f"{place}.") for place in places)


def is_live(path: str, *, has_api_server: bool) -> bool:
    """Whether a change of the field counts at once."""
    return is_within(path, LIVE) and not (has_api_server and path in WITH_API_SERVER)


def restart_reason(path: str) -> str:
    """Why a change of the field needs a restart, of one that does."""
    if path in WITH_API_SERVER:
        return WITH_API_SERVER[path]
    return next(reason for place, reason in RESTART.items() if is_within(path, (place,)))


def is_inapplicable(path: str) -> bool:
    """Whether the field means nothing here."""
    return is_within(path, INAPPLICABLE)


_PLAN: Final = "at once, for connections to come"
_PACE: Final = "at once; with files alone nothing waits"
_MOVE: Final = "at once: the new socket is open before the old one closes"
LIVE: Final = {
    "mode": _PLAN,
    "clusterCIDR": _PLAN,
    "detectLocalMode": _PLAN,
    "detectLocal": _PLAN,
    "nodePortAddresses": _PLAN,
    "hostnameOverride": _PLAN,
    "bindAddress": f"{_PLAN}; servers whose address is the default move",
    "conntrack": "at once; every-packet gives a flow its timeout with its next packet",
    "masqueradeBit": _PLAN,
    "masqueradeAll": _PLAN,
    "localhostNodePorts": _PLAN,
    "iptables.masqueradeBit": _PLAN,
    "iptables.masqueradeAll": _PLAN,
    "iptables.localhostNodePorts": _PLAN,
    "iptables.syncPeriod": "at once: health is stale after twice that time",
    "iptables.minSyncPeriod": _PACE,
    "nftables.masqueradeBit": _PLAN,
    "nftables.masqueradeAll": _PLAN,
    "nftables.localhostNodePorts": _PLAN,
    "nftables.syncPeriod": "at once: health is stale after twice that time",
    "nftables.minSyncPeriod": _PACE,
    "healthzBindAddress": _MOVE,
    "metricsBindAddress": _MOVE,
    "logging.format": "at once",
    "logging.verbosity": "at once",
    "oomScoreAdj": "at once, as far as the kernel lets us: less takes CAP_SYS_RESOURCE",
    "kbeNat.nodeAddress": _PLAN,
    "kbeNat.externalIpRanges": _PLAN,
    "kbeNat.rejectWith": _PLAN,
    "kbeNat.serviceProxyName": _PLAN,
    "kbeNat.strategy": _PLAN,
    "kbeNat.drainRemoved": "for backends that leave from now on",
    "kbeNat.healthzBindAddress": _MOVE,
    "kbeNat.metricsBindAddress": _MOVE,
    "kbeNat.metricsBackends": "at the next scrape",
}
"""When a change is in force."""

_WATCHES: Final = "the watches of the API server are open already"
_START: Final = "it counts at the start alone"
_OBJECTS: Final = "what the objects leave out has been filled in already"
_QUEUES: Final = "a queue that is opened anew loses what waits in it"
_TABLES: Final = "the engine's tables keep their size"
_RULES: Final = "connections carry what the rules of now have written"
_DATAPATH: Final = "another datapath is another daemon, which takes connections over"
RESTART: Final = {
    "apiVersion": "there is one",
    "kind": "there is one",
    "clientConnection.kubeconfig": _WATCHES,
    "clientConnection.contentType": _WATCHES,
    "bindAddressHardFail": _START,
    "kbeNat.manifests": "the files that are followed are those of the start",
    "kbeNat.apiEncoding": _WATCHES,
    "kbeNat.podRange": _OBJECTS,
    "kbeNat.strict": _START,
    "kbeNat.seed": "equal seeds let nodes agree, also about connections of before",
    "kbeNat.datapath": _DATAPATH,
    "kbeNat.driver": _DATAPATH,
    "kbeNat.rules": _DATAPATH,
    "kbeNat.onDeath": _RULES,
    "kbeNat.standbySlots": _RULES,
    "kbeNat.dropInvalid": _RULES,
    "kbeNat.choice": _RULES,
    "kbeNat.takeOver": _START,
    "kbeNat.cacheFlows": _DATAPATH,
    "kbeNat.cacheExclude": _DATAPATH,
    "kbeNat.cacheExcludeDevice": _DATAPATH,
    "kbeNat.queue": _QUEUES,
    "kbeNat.queues": _QUEUES,
    "kbeNat.queueLength": _QUEUES,
    "kbeNat.cpus": _QUEUES,
    "kbeNat.gso": _QUEUES,
    "kbeNat.failOpen": _QUEUES,
    "kbeNat.maxFlows": _TABLES,
    "kbeNat.maxFlowsPerSource": _TABLES,
    "kbeNat.decisions": _TABLES,
    "kbeNat.markFlow": _RULES,
    "kbeNat.markRefused": _RULES,
    "kbeNat.markMasquerade": _RULES,
    "kbeNat.markBackend": _RULES,
    "kbeNat.socket": "programs have connections to it",
    "kbeNat.state": "the next daemon reads the file of this one",
}
"""Why a change needs a restart, which keeps connections."""
WITH_API_SERVER: Final = {
    "mode": "the API server is asked for service ranges in nftables mode alone",
    "hostnameOverride": "the API server is asked for the Node of this name",
    "kbeNat.serviceProxyName": "the API server is asked for the Services of this label",
}
"""Why these need a restart with an API server; with files alone they do not."""
