"""Queues of packets for `kbe_nat.Loop`: where packets come from, and where verdicts go.

- `kbe_nat.drivers.queue`: what a queue has to have, for one of your own; `Batch`, `VERDICT`;
- `kbe_nat.drivers.native`: a queue of the kernel (NFQUEUE), read in Rust;
- `kbe_nat.drivers.netfilterqueue`: the same by the netfilterqueue package;
- `kbe_nat.drivers.capture`: a capture file as a queue;
- `kbe_nat.drivers.thread`: a loop in a thread of its own.
"""

from importlib import import_module

__all__ = ["capture", "native", "netfilterqueue", "queue", "thread"]


def __getattr__(name: str) -> object:
    # A module is imported when it is asked for: one of them needs a package of others.
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
