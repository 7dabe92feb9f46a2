"""Packages that not every installation has. Each belongs to an extra of kbe-nat, which pip installs
with it; the engine and the verbs that read files need none.
"""

from typing import Final

from kbe_nat.errors import ExtraError

EXTRAS: Final = {
    "proxy": ("aiohttp", "prometheus_client"),
    "netfilterqueue": ("netfilterqueue",),
    "lab": ("cloudpickle", "jinja2", "joblib", "matplotlib", "polars"),
    "lab-cluster": ("distributed", "joblib"),
}
"""Their modules."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed; none is imported."""
    from importlib.util import find_spec

    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require(extra: str, task: str) -> None:
    """Raises `ExtraError` where a task needs an extra that is not installed."""
    modules = missing(extra)
    if modules:
        raise ExtraError(f"{task} needs {' and '.join(modules)}: {remedy(extra)}")


def extra_of(module: str) -> str | None:
    """The extra that installs a module, or None."""
    return next((extra for extra, names in EXTRAS.items() if module in names), None)


def remedy(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'kbe-nat[{extra}]'"
