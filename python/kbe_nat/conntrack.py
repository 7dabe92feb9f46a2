"""Connections as the kernel tracks them, as the command `conntrack` prints them: where each was
sent, and as whom.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kbe_nat.commands import printed
from kbe_nat.errors import ConntrackError


@dataclass(frozen=True, slots=True)
class KernelFlow:
    """A connection, as it began and as its answers come back."""

    protocol: str
    source: tuple[str, int]
    destination: tuple[str, int]
    reply_source: tuple[str, int]
    """Who serves it."""
    reply_destination: tuple[str, int]
    """As whom the backend sees the client."""

    @property
    def is_translated(self) -> bool:
        """It goes elsewhere than its client has sent it."""
        return self.reply_source != self.destination

    @property
    def is_masqueraded(self) -> bool:
        """The backend sees another address than the client's."""
        return self.reply_destination[0] != self.source[0]


def listed(prefix: Sequence[str] = ()) -> Iterator[KernelFlow]:
    """All connections that there are. `prefix` stands before the command, to run it elsewhere.

    Raises `ConntrackError`.
    """
    for family in FAMILIES:
        command = ("conntrack", "-L", "-f", family)
        lines = printed(command, ConntrackError, prefix=prefix, seconds=LIST_SECONDS).splitlines()
        yield from filter(None, map(parse, lines))


def watched(prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """A process that prints a line for every connection that begins. Raises `ConntrackError`."""
    command = [*prefix, "conntrack", "-E", "-e", "NEW", "-b", str(EVENT_BUFFER)]
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        )
    except FileNotFoundError as error:
        raise ConntrackError(f"{error.filename} is not installed") from None
    except OSError as error:
        raise ConntrackError(f"conntrack -E: {error.strerror or error}") from None


def parse(line: str) -> KernelFlow | None:
    """The connection in a line of conntrack's output; None where there is none with ports in it."""
    protocol = _PROTOCOL.search(line)
    ends = _ENDS.findall(line)
    if protocol is None or len(ends) != 2:
        return None
    (source, destination, sport, dport), (back, to, back_port, to_port) = ends
    return KernelFlow(
        protocol[1],
        (source, int(sport)),
        (destination, int(dport)),
        (back, int(back_port)),
        (to, int(to_port)),
    )


FAMILIES: Final = ("ipv4", "ipv6")
EVENT_BUFFER: Final = 4 << 20
"""Bytes of events that wait in the kernel."""
LIST_SECONDS: Final = 60.0
"""A million connections take some seconds."""
_PROTOCOL: Final = re.compile(r"(?:^|\s)(tcp|udp|sctp)\s")
_ENDS: Final = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")
