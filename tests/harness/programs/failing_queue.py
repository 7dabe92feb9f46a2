"""As sitecustomize of a daemon: its driver `netfilterqueue` fails once the file FLAG is there.

The daemon's environment names the file.
"""

import os
from pathlib import Path

from kbe_nat.drivers import netfilterqueue
from kbe_nat.drivers.queue import Batch

FLAG = Path(os.environ["FLAG"])
RECEIVE = netfilterqueue.NetfilterQueue.receive


def receive(self: netfilterqueue.NetfilterQueue) -> Batch:
    """In place of the driver's."""
    if FLAG.exists():
        raise OSError(5, "the cable is out")
    return RECEIVE(self)


if "sitecustomize" in __name__:
    netfilterqueue.NetfilterQueue.receive = receive  # type: ignore[method-assign]
