"""The HTTP proxy that the environment names for a server, by the rules of Go's programs.

`HTTPS_PROXY` (`HTTP_PROXY` for a server without TLS) names it, and `NO_PROXY` what it is not used
for: `*`, addresses, networks such as 10.0.0.0/8, and names, which stand for the names below them
too. All of them may have a port. Capital letters go before small ones. A server on this machine is
never asked by a proxy.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit


def environment_proxy(server: str, environment: Mapping[str, str]) -> str:
    """The proxy's URL for a server's URL; empty when there is none."""
    parts = urlsplit(server)
    name = "HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY"
    proxy = _variable(environment, name)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not proxy or _is_direct(parts.hostname or "", port, _variable(environment, "NO_PROXY")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.lower()) or "").strip()


def _is_direct(host: str, port: int, exceptions: str) -> bool:
    """Whether a server is asked without a proxy."""
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for text in exceptions.lower().split(","):
        pattern, only_port = _split_port(text.strip())
        if not pattern or (only_port and only_port != str(port)):
            continue
        if pattern == "*":
            return True
        if address is not None:
            if _holds(pattern, address):
                return True
        elif _names(pattern, host):
            return True
    return False


def _split_port(pattern: str) -> tuple[str, str]:
    """A pattern without its port, and the port, if it has one."""
    if pattern.startswith("["):
        inside, _, rest = pattern[1:].partition("]")
        return inside, rest.removeprefix(":")
    host, colon, port = pattern.rpartition(":")
    # More than one colon: an IPv6 address without a port.
    return (host, port) if colon and ":" not in host and port.isdecimal() else (pattern, "")


def _holds(pattern: str, address: IPv4Address | IPv6Address) -> bool:
    """Whether an address or a network has the address."""
    try:
        return address in ip_network(pattern, strict=False)
    except ValueError:
        return False


def _names(pattern: str, host: str) -> bool:
    """Whether a domain has the name; with a dot before it, only the names below it."""
    pattern = pattern.removeprefix("*").rstrip(".")
    is_below = host.endswith(f".{pattern.removeprefix('.')}")
    return is_below or (not pattern.startswith(".") and host == pattern)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
