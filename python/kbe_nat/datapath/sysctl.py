"""Settings of the kernel (sysctl(8))."""

from pathlib import Path
from typing import Final


def sysctl(setting: str) -> str | None:
    """Its value; None where the kernel has none of that name."""
    try:
        return Path("/proc/sys", *setting.split(".")).read_text().strip()
    except OSError:
        return None


ACCOUNTING: Final = "net.netfilter.nf_conntrack_acct"
"""Whether packets and bytes of flows are counted."""
