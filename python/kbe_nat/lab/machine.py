"""The machine and the software of a run, for its manifest."""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kbe_nat._native import REVISION
from kbe_nat.commands import output_of
from kbe_nat.errors import LabError


def facts(version: str) -> dict[str, Any]:
    """Versions, git revisions of checkout and native module, kernel, CPU, mitigations, governor,
    load and the share of time that a hypervisor took since the boot; None where nothing tells.
    """
    return {
        "kbe_nat": version,
        **revisions(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "mitigations": _mitigations(),
        "governor": _governor(),
        "load": os.getloadavg()[0],
        "steal_share": _steal_share(),
        "command": [printable(word) for word in sys.argv],
    }


def revisions() -> dict[str, str | None]:
    """Those of the checkout, of the sources of the native module, and of those in the checkout."""
    return {"git": _revision(), "git_native": REVISION, "git_sources": _revision(RUST)}


def printable(text: str) -> str:
    """A text of the system for a file in UTF-8: bytes that are none become U+FFFD."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def stale_module(machine: Mapping[str, Any]) -> str:
    """Both revisions in words, where a run's native module was built of other sources than lay
    beside it; empty where they are the same, or nothing tells.
    """
    module, sources = machine.get("git_native"), machine.get("git_sources")
    if module == sources or module is None or sources is None:
        return ""
    return (
        f"The native module was built of Rust sources at {module}, "
        f"and those of the checkout are at {sources}."
    )


def _revision(paths: Sequence[str] = ()) -> str | None:
    """The last commit of the checkout that the package runs from, or the last that changed one of
    these paths, with + when files differ from it.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    last = ["log", "-1", "--format=%H", "--", *paths]
    status = ["status", "--porcelain", "-uno", "--", *paths]
    try:
        revision = output_of([*git, *last], LabError, seconds=10).strip()
        changes = output_of([*git, *status], LabError, seconds=10).strip()
    except LabError:
        return None
    return f"{revision}+" if changes else revision


def _cpu() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return model[1] if model else None


def _mitigations() -> dict[str, str]:
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    mitigations = {}
    for path in sorted(folder.glob("*")):
        try:
            mitigations[path.name] = path.read_text().strip()
        except OSError:
            continue
    return mitigations


def _governor() -> str | None:
    """Of the first processor's clock rate: another than `performance` makes noise."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _steal_share() -> float | None:
    try:
        ticks = processor_ticks()
    except OSError:
        return None
    return ticks.steal / ticks.total if ticks.total else None


class Ticks(NamedTuple):
    """Time of all processors since the boot."""

    busy: int
    steal: int
    """Taken by the hypervisor."""
    total: int


def processor_ticks() -> Ticks:
    """As /proc/stat has them. Raises `OSError` where there is none."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, wait, hard, soft, steal = map(int, words)
    busy = user + nice + system + hard + soft
    return Ticks(busy, steal, busy + idle + wait + steal)


RUST: Final = ("rust", "Cargo.toml", "Cargo.lock")
"""What the native module is built of, as in rust/python/build.rs."""
