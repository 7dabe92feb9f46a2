"""Fields of kube-proxy's configuration that kbe-nat does not follow, each with its reason."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.effective import complete, value_at
from kbe_nat.kubeproxy.flags import Flag


def inapplicable(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """The path of each field that says something else than its default and is not followed, and the
    reason.
    """
    values = msgspec.to_builtins(complete(configuration))
    for path, reason in INAPPLICABLE.items():
        if value_at(values, path) != value_at(_DEFAULTS, path):
            yield path, reason


def reason_against(flag: Flag) -> str:
    """Why a flag is not followed, whatever it says; empty for one that is."""
    for path, reason in INAPPLICABLE.items():
        if f"{flag.path}.".startswith(f"{path}."):
            return reason
    return flag.no_effect


_NO_IPVS: Final = "there is no IPVS here"
_WINDOWS: Final = "it is for Windows"
_ONE_WATCH: Final = "a node has one watch for each kind of object, and no stream of requests"
_UNBUFFERED: Final = "each line is written at once"
INAPPLICABLE: Final = {
    "ipvs.syncPeriod": _NO_IPVS,
    "ipvs.minSyncPeriod": _NO_IPVS,
    "ipvs.scheduler": f"{_NO_IPVS}; --strategy chooses how backends are chosen",
    "ipvs.excludeCIDRs": _NO_IPVS,
    "ipvs.strictARP": _NO_IPVS,
    "ipvs.tcpTimeout": _NO_IPVS,
    "ipvs.tcpFinTimeout": _NO_IPVS,
    "ipvs.udpTimeout": _NO_IPVS,
    "winkernel": _WINDOWS,
    "windowsRunAsService": _WINDOWS,
    "portRange": "kube-proxy does not use it either",
    "featureGates": "they are those of kube-proxy's releases",
    "enableProfiling": "there is no Go program to profile",
    "showHiddenMetricsForVersion": "no metric is hidden",
    "configSyncPeriod": "watches tell what changes, and nothing is listed again by the clock",
    "clientConnection.acceptContentTypes": "the encoding is that of contentType",
    "clientConnection.qps": _ONE_WATCH,
    "clientConnection.burst": _ONE_WATCH,
    "logging.flushFrequency": _UNBUFFERED,
    "logging.vmodule": "the files are those of kube-proxy's source",
    "logging.options": _UNBUFFERED,
}
"""By the path of the field, or of a section."""
_DEFAULTS: Final[dict[str, Any]] = msgspec.to_builtins(complete(Configuration()))
