"""Our own code behind the interfaces of other packages.

- `kbe_nat.compat.netfilterqueue`: the interface of the netfilterqueue package.
"""

from importlib import import_module

__all__ = ["netfilterqueue"]


def __getattr__(name: str) -> object:
    # A module is imported when it is asked for: most programs need none.
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
