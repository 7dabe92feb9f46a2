"""Addresses at which kube-proxy answers, as its flags and its configuration file have them."""

from typing import Final, TypeAlias

from kbe_nat.sources.address import split_address

BindAddress: TypeAlias = tuple[str, int]
"""Address and port; the wildcard address of a family stands for all addresses."""


def parse_bind_address(text: str, default_port: int) -> BindAddress:
    """An IP address, with or without a port; `NOWHERE` for an empty text or port 0. Raises
    ValueError.
    """
    if not text:
        return NOWHERE
    try:
        address, port = split_address(text)
    except ValueError:
        reason = f"{text[:60]!r} is no IP address with a port, such as 0.0.0.0:{default_port}"
        raise ValueError(reason) from None
    return NOWHERE if port == 0 else (address, port or default_port)


HEALTH_PORT: Final = 10256
METRICS_PORT: Final = 10249
NOWHERE: Final[BindAddress] = ("", 0)
"""Nothing listens."""
