"""Telling systemd how we are (sd_notify(3), sd_watchdog_enabled(3))."""

import os
import socket
from contextlib import suppress


class Notifier:
    """Notifies the service manager that started us, if it listens. Its socket is opened once: a
    sign of life must not need a descriptor, since descriptors may have run out.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None

    def notify(self, *lines: str) -> None:
        """Send lines such as "READY=1"."""
        if self._socket is not None:
            # A service manager that is gone, or does not listen, is no reason to stop serving, or
            # to wait.
            with suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()


def watchdog_seconds() -> float | None:
    """Within what time we are to say WATCHDOG=1; None without a watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return (
        int(microseconds) / 1e6
        if is_ours and microseconds.isdigit() and int(microseconds)
        else None
    )
