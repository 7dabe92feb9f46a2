"""A control socket whose engine has a full table of flows.

`PYTHONPATH=tests full_control_socket.py PATH` serves until its standard input ends.
"""

import sys
from pathlib import Path

from harness.full_engine import controller_with, verbs_of
from kbe_nat.daemon.control_socket import ControlServer


def main() -> None:
    """Serve until the standard input ends."""
    with ControlServer(Path(sys.argv[1]), verbs_of(controller_with(262_144))):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
