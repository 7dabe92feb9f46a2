"""Names of chains as kube-proxy gives them: hashes that keep them short, and unique.

From pkg/proxy/iptables/proxier.go (portProtoHash, servicePortEndpointChainName) and
pkg/proxy/nftables/proxier.go (servicePortChainNameBase, servicePortEndpointChainNameBase).
"""

import base64
import hashlib
from typing import Final

from kbe_nat.policy.plan import Backend, PlannedPort


def iptables_chain(prefix: str, port: PlannedPort, backend: Backend | None = None) -> str:
    """Such as KUBE-SVC-EXBNZ76JOZU7PBN2, or with a backend the chain of that endpoint."""
    return hashed_chain(prefix, f"{port.name}{port.protocol}{backend or ''}")


def hashed_chain(prefix: str, text: str) -> str:
    """A chain of iptables: the prefix and sixteen characters of the hash."""
    return prefix + _hash(text)[:16]


def nft_base(port: PlannedPort) -> str:
    """The common part of a service port's chain names: "HASH-namespace/name/protocol/port"."""
    return _shorten(_nft_name(port))


def nft_endpoint_base(port: PlannedPort, backend: Backend) -> str:
    """The common part of the names of an endpoint's chain and set; nft has no colons in names."""
    return _shorten(f"{_nft_name(port)}__{backend.address.replace(':', '.')}/{backend.port}")


def _nft_name(port: PlannedPort) -> str:
    return f"{port.namespace}/{port.service}/{port.protocol}/{port.port_name}"


def _shorten(name: str) -> str:
    text = f"{_hash(name)[:8]}-{name}"
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()


MAX_LENGTH: Final = 240
"""chainNameBaseLengthMax."""
SERVICE, LOCAL, EXTERNAL, FIREWALL, ENDPOINT = (
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
)
