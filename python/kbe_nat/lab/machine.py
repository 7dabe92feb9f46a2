"""The machine and the software of a run, for its manifest."""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from kbe_nat.commands import output_of
from kbe_nat.errors import LabError


def facts(version: str) -> dict[str, Any]:
    """Versions, git revision, kernel, CPU and mitigations; None where nothing tells."""
    return {
        "kbe_nat": version,
        "git": _revision(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "mitigations": _mitigations(),
        "command": sys.argv,
    }


def _revision() -> str | None:
    """Of the checkout that the package runs from, with + when files differ from it."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        revision = output_of([*git, "rev-parse", "HEAD"], LabError, seconds=10).strip()
        changes = output_of([*git, "status", "--porcelain", "-uno"], LabError, seconds=10).strip()
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
