"""Giving up every privilege but one (capabilities(7))."""

import ctypes
import os
from pathlib import Path
from typing import Final


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def keep_net_admin(*, lends_net_raw: bool) -> None:
    """From now on this process has CAP_NET_ADMIN and nothing more. With `lends_net_raw` commands
    that it runs as root have CAP_NET_RAW too: without it iptables' set match refuses to work
    (libxt_set opens a raw socket to talk of sets).

    Must be called before threads are started: they keep what they had. Raises OSError.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    retained = (CAP_NET_ADMIN, CAP_NET_RAW) if lends_net_raw else (CAP_NET_ADMIN,)
    # A user who may not bound what commands can get is bounded by no_new_privs alone.
    may_bound = effective() >> CAP_SETPCAP & 1
    for capability in range(last + 1):
        if may_bound and capability not in retained and _prctl(PR_CAPBSET_READ, capability) > 0:
            _raise_on_error(_prctl(PR_CAPBSET_DROP, capability))
    header = _Header(VERSION_3, 0)
    LIBC.capget(ctypes.byref(header), ctypes.byref(data := (_Data * 2)()))
    effective_mask = 1 << CAP_NET_ADMIN
    lent = (data[0].permitted & 1 << CAP_NET_RAW) if lends_net_raw else 0
    permitted = effective_mask | lent
    data = (_Data * 2)(_Data(effective_mask, permitted, permitted), _Data())
    _raise_on_error(LIBC.capset(ctypes.byref(header), data))
    _raise_on_error(_prctl(PR_SET_NO_NEW_PRIVS, 1))
    # A command of another user than root has it only so.
    _raise_on_error(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN))


def effective() -> int:
    """The capabilities in force, as a mask."""
    status = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("CapEff:")).split()[1], 16)


def _prctl(option: int, first: int = 0, second: int = 0) -> int:
    return int(LIBC.prctl(option, first, second, 0, 0))


def _raise_on_error(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"privileges cannot be given up: {os.strerror(number)}")


LIBC: Final = ctypes.CDLL(None, use_errno=True)
VERSION_3: Final = 0x20080522
CAP_SETPCAP: Final = 8
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
