"""Directories whose file system is gone. Unmounting leaves an empty directory, although no file was
deleted.
"""

from pathlib import Path

from kbe_nat.errors import UnreadableError


class Mounts:
    """Remembers on which file system each directory had files."""

    def __init__(self) -> None:
        self._devices: dict[str, int | None] = {}
        """None: it is gone, until there are files again. Its number may be that of the next one."""

    def check(self, directory: str, *, has_files: bool) -> None:
        """Raises `UnreadableError` when it is empty, and on another file system than when it had
        files; OSError. Cost: a system call.
        """
        device = Path(directory).stat().st_dev
        if has_files:
            self._devices[directory] = device
        elif self._devices.get(directory, device) != device:
            self._devices[directory] = None
            raise UnreadableError(
                f"{directory}: it is empty, and on another file system than before: "
                "was that unmounted?"
            )
