"""Chances of `-m statistic --mode random`, from kube-proxy's request to iptables-save's text."""

from typing import Final


def chance_text(candidates: int, decimals: int) -> str:
    """The chance of one of so many endpoints: kube-proxy asks for it with `decimals` decimals, the
    kernel keeps it in units of 2^-31, and iptables-save shows eleven decimals
    (extensions/libxt_statistic.c).
    """
    return f"{round(float(f'{1 / candidates:.{decimals}f}') * UNITS) / UNITS:.11f}"


UNITS: Final = 1 << 31
MODERN, LEGACY = 10, 5
"""Decimals that kube-proxy asks with."""
