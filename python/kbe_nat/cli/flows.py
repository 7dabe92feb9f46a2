"""A file of packets to explain: a list of `from`, `to`, `proto` and `iif`."""

from pathlib import Path
from typing import Literal

import msgspec
import yaml

from kbe_nat.errors import FileError


class FlowQuestion(msgspec.Struct, frozen=True):
    """The first packet of a connection."""

    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    protocol: Literal["tcp", "udp", "sctp"] = msgspec.field(name="proto", default="tcp")
    interface: str = msgspec.field(name="iif", default="")
    name: str = ""


def read_flows(path: Path) -> list[FlowQuestion]:
    """The list, or that under the key `flows`. Raises `FileError`, with the field."""
    try:
        document = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise FileError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if isinstance(document, dict):
        document = document.get("flows")
    try:
        return msgspec.convert(document, list[FlowQuestion])
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at ")
        field = where.strip("`").removeprefix("$") or "flows"
        raise FileError(f"{path}: {field}: {reason[:1].lower()}{reason[1:]}") from None
