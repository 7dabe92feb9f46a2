"""What `kbe-nat conntrack -E` tells of connections."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.daemons import COMMAND, Daemon

KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
EVENTS = {
    "tcp": [
        "[NEW] SYN_SENT [UNREPLIED]",
        "[UPDATE] SYN_RECV",
        "[UPDATE] ESTABLISHED [ASSURED]",
        "[UPDATE] FIN_WAIT [ASSURED]",
        "[UPDATE] LAST_ACK [ASSURED]",
        "[UPDATE] TIME_WAIT [ASSURED]",
    ],
    "udp": ["[NEW] [UNREPLIED]", "[UPDATE]"],
}
"""What happens to a client's connection that asks once."""


@contextmanager
def watch(daemon: Daemon, events: Path) -> Iterator[None]:
    """The command writes each event into the file."""
    words = ("conntrack", "-E", "-o", "id", "--socket", str(daemon.socket))
    with events.open("w") as out, subprocess.Popen([*COMMAND, *words], stdout=out) as watching:
        try:
            yield
        finally:
            watching.terminate()


def steps(path: Path) -> dict[str, list[str]]:
    """Event, state and marks of each line, by the client's port."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        # A pod that ends its side 40 ms late on a busy machine has acknowledged the client's FIN.
        if " sport=" in line and "[DESTROY]" not in line and " CLOSE_WAIT " not in line:
            port = port_of(line)
            step = [word for word in line.split() if word.isupper() or word.startswith("[")]
            found.setdefault(port, []).append(" ".join(step))
    return found


def port_of(line: str) -> str:
    """The client's port."""
    return line.partition(" sport=")[2].split()[0]
