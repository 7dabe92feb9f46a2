"""Many Services served by first packets, as a process of its own: `served NUMBER`.

Runs in the node's namespace. Says when it began with parsed objects, in seconds of the system's
monotonic clock, and its memory in MB once they are served; ends with its standard input.
"""

import gc
import sys
import time
from pathlib import Path

import kbe_nat
from benches.datapath.scale import objects
from kbe_nat._native import NftTables
from kbe_nat.control.controller import Controller
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.policy.options import Options
from kbe_nat.rules.commands import Commands


def main() -> None:
    """Serve until nobody is there any more."""
    snapshot = objects(int(sys.argv[1]))
    engine = kbe_nat.Engine(seed=1)
    datapath = FirstPacket(Diversion((100, 100)), Commands(), NftTables())
    options = Options(node_addresses=("10.0.2.15",))
    controller = Controller(engine, datapath, lambda _: options)
    gc.collect()
    started = time.monotonic()
    with (
        NativeQueue(100, backend_ids=datapath.backend_ids, fail_open=True) as queue,
        datapath.following(engine),
    ):
        controller.apply(snapshot)
        controller.install()
        with LoopThread(engine, queue):
            status = Path("/proc/self/status").read_text()
            print(started, round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1), flush=True)
            sys.stdin.read()
        controller.remove()


if __name__ == "__main__":
    main()
