"""A file of packets to explain: a list of `from`, `to`, `proto` and `iif`."""

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from kbe_nat.sources.manifests.documents import document

Protocol: TypeAlias = Literal["tcp", "udp", "sctp"]


class FlowQuestion(msgspec.Struct, frozen=True):
    """The first packet of a connection."""

    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    protocol: Protocol | None = msgspec.field(name="proto", default=None)
    """None: that of the Service that `to` names, or tcp."""
    interface: str | None = msgspec.field(name="iif", default=None)
    name: str = ""


class _Case(msgspec.Struct, frozen=True):
    flows: list[FlowQuestion]


_Flows: TypeAlias = list[FlowQuestion] | _Case


def read_flows(path: Path) -> list[FlowQuestion]:
    """The list, or that under the key `flows`. Raises `FileError`, with the field."""
    content: _Flows = document(path, _Flows, [])  # type: ignore[arg-type]
    return content.flows if isinstance(content, _Case) else content
