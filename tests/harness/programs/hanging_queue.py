"""As sitecustomize of a daemon: its driver `netfilterqueue` hangs while the file FLAG is there.

The daemon's environment names the file; `FLAG-met` appears once the driver hangs.
"""

import os
import time
from pathlib import Path

from kbe_nat.daemon import liveness
from kbe_nat.drivers import netfilterqueue
from kbe_nat.drivers.queue import Batch

FLAG = Path(os.environ["FLAG"])
RECEIVE = netfilterqueue.NetfilterQueue.receive


def receive(self: netfilterqueue.NetfilterQueue) -> Batch:
    """In place of the driver's."""
    while FLAG.exists():
        FLAG.with_name(f"{FLAG.name}-met").touch()
        time.sleep(0.01)
    return RECEIVE(self)


if "sitecustomize" in __name__:
    netfilterqueue.NetfilterQueue.receive = receive  # type: ignore[method-assign]
    liveness.TURN_SECONDS = 0.5  # type: ignore[misc]
