"""Telling systemd how we are (sd_notify(3), sd_watchdog_enabled(3))."""

import os
import socket


def notify(*lines: str) -> None:
    """Send lines such as "READY=1" to who started us, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
        except OSError:
            # Who started us is gone; that is no reason to stop serving.
            return


def watchdog_seconds() -> float | None:
    """Within what time we are to say WATCHDOG=1; None when nobody watches."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if is_ours and microseconds.isdigit() and int(microseconds) else None
