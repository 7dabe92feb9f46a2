"""Modules of a package that are imported when they are asked for."""

from collections.abc import Callable, Sequence
from importlib import import_module


def on_demand(
    package: str, names: Sequence[str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562): these modules of it are its names."""

    def attribute(name: str) -> object:
        if name in names:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        special = (name for name in vars(import_module(package)) if name.startswith("__"))
        return sorted({*names, *special})

    return attribute, listed
