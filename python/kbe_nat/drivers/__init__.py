"""Queues of packets for `kbe_nat.Loop`: where packets come from, and where verdicts go.

- `kbe_nat.drivers.queue`: what a queue has to have, for one of your own; `Batch`, `VERDICT`;
- `kbe_nat.drivers.native`: a queue of the kernel (NFQUEUE), read in Rust;
- `kbe_nat.drivers.netfilterqueue`: the same by the netfilterqueue package;
- `kbe_nat.drivers.capture`: a capture file as a queue;
- `kbe_nat.drivers.thread`: a loop in a thread of its own.
"""

from kbe_nat.submodules import on_demand

__all__ = ["capture", "native", "netfilterqueue", "queue", "thread"]

# One of them needs a package of others.
__getattr__, __dir__ = on_demand(__name__, __all__)
