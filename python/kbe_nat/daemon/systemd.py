"""Telling systemd how we are (sd_notify(3), sd_watchdog_enabled(3))."""

import os
import socket
from contextlib import suppress


class Notifier:
    """Speaks to who started us, if it wants to know. Its socket is opened once: to say that we are
    alive must not need a descriptor, which may be what is missing.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None

    def say(self, *lines: str) -> None:
        """Send lines such as "READY=1"."""
        if self._socket is not None:
            # Who started us is gone, or does not listen; that is no reason to stop serving, or to
            # wait.
            with suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()


def watchdog_seconds() -> float | None:
    """Within what time we are to say WATCHDOG=1; None when nobody watches."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return (
        int(microseconds) / 1e6
        if is_ours and microseconds.isdigit() and int(microseconds)
        else None
    )
