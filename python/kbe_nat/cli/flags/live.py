"""The flags of verbs that read objects, or ask a running daemon instead."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import SOCKET_FLAG
from kbe_nat.cli.flags.parameters import Flags
from kbe_nat.client import DEFAULT_SOCKET


@dataclass(frozen=True)
class LiveSettings:
    """Whether a daemon is asked, and which."""

    is_live: bool = False
    socket: Path = DEFAULT_SOCKET


LIVE_FLAGS: Final[Flags] = {
    "is_live": Flag(
        "--live", help="Ask the running daemon, with its connections, instead of reading objects."
    ),
    "socket": SOCKET_FLAG,
}
