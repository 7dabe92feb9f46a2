"""`kbe-nat handover`: let the daemon's end leave its rules for the next daemon."""

from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask


@verb()
def handover(socket: Socket = DEFAULT_SOCKET) -> None:
    """Tell the daemon that another one follows: SIGTERM ends it as SIGUSR2 does, and its rules
    stay. A container's preStop hook calls this, because kubelet sends SIGTERM only.

    Examples:
      kbe-nat handover && systemctl stop kbe-nat
    """
    list(ask(socket, "handover", type(None)))
    print("the rules stay when the daemon ends")
