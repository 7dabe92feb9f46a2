"""The chances of `-m statistic --mode random`: what kube-proxy asks for, and what iptables-save
shows of it.
"""

from typing import Final


def shown(left: int, decimals: int) -> str:
    """One of `left` endpoints: asked for with so many decimals, kept by the kernel in units of
    2^-31, and shown with eleven decimals (extensions/libxt_statistic.c).
    """
    return f"{round(float(f'{1 / left:.{decimals}f}') * UNITS) / UNITS:.11f}"


UNITS: Final = 1 << 31
MODERN, LEGACY = 10, 5
"""Decimals that kube-proxy asks with."""
