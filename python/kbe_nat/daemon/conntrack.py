"""The connection tracking that kube-proxy's configuration asks for."""

from typing import Final

from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.duration import duration
from kbe_nat.kubeproxy.effective import complete


def conntrack_settings(configuration: Configuration) -> ConntrackSettings:
    """The section `conntrack`, with kube-proxy's defaults."""
    section = complete(configuration).conntrack
    return ConntrackSettings(
        max_per_core=section.max_per_core or 0,
        min=section.min or 0,
        tcp_established=_seconds(section.tcp_established_timeout),
        tcp_close_wait=_seconds(section.tcp_close_wait_timeout),
        udp=_seconds(section.udp_timeout),
        udp_stream=_seconds(section.udp_stream_timeout),
        is_liberal=bool(section.tcp_be_liberal),
    )


def _seconds(text: str | None) -> float:
    """At most a year, which is for ever to a connection."""
    return min(duration(text or "0"), YEAR)


YEAR: Final = 31_536_000.0
