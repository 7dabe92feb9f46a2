"""Settings of the kernel (sysctl(8))."""

from pathlib import Path
from typing import Final


def sysctl(setting: str) -> str | None:
    """Its value; None where the kernel has none of that name."""
    try:
        return _path(setting).read_text().strip()
    except OSError:
        return None


def set_sysctl(setting: str, number: int) -> None:
    """Give it this value. Raises OSError."""
    _path(setting).write_text(str(number))


def _path(setting: str) -> Path:
    return Path("/proc/sys", *setting.split("."))


ACCOUNTING: Final = "net.netfilter.nf_conntrack_acct"
"""Whether packets and bytes of flows are counted."""
