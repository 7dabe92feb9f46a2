"""Limits and timeouts of tracked connections, in the kernel and in the engine.

The kernel gets them as kube-proxy gives them. The table is only ever made larger: another program
may have had its reason to. A timeout of 0 stays as the kernel has it; `nf_conntrack_tcp_be_liberal`
is set, and never cleared. Nothing is put back at the end, since connections go on.

The table's size belongs to the whole machine: in a network namespace of its own the kernel refuses
to change it, and so may a container do with all of /proc/sys. Then the kernel's values stay.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from kbe_nat._native import Timeouts
from kbe_nat.datapath.sysctl import set_sysctl, sysctl


class Change(NamedTuple):
    """A setting of the kernel that gets another value. It has None before the kernel tracks
    connections.
    """

    setting: str
    before: str | None
    after: int

    def __str__(self) -> str:
        before = "not there yet" if self.before is None else f"was {self.before}"
        return f"{self.setting} = {self.after}  # {before}"


@dataclass(frozen=True)
class ConntrackSettings:
    """Timeouts in seconds; 0 leaves the usual one."""

    max_per_core: int = 0
    """Connections; 0 leaves the kernel's table as it is."""
    min: int = 0
    """Connections at least, however few cores there are."""
    tcp_established: float = 0
    tcp_close_wait: float = 0
    udp: float = 0
    """Of flows without an answer."""
    udp_stream: float = 0
    is_liberal: bool = False
    """TCP outside its windows is not invalid; the engine translates it anyway."""

    def timeouts(self) -> Timeouts:
        """The engine's."""
        return Timeouts(**{name: value for name, value in self._seconds.items() if value})

    def table_size(self, cores: int) -> int:
        """Connections for which the kernel's table has room; 0: it stays as it is."""
        return max(self.max_per_core * cores, self.min) if self.max_per_core else 0

    def changes(self) -> Iterator[Change]:
        """What differs in the kernel of this network namespace from what is wanted. Cost: a read
        for each setting.
        """
        size = self.table_size(os.cpu_count() or 1)
        present = sysctl(MAX)
        if size > _number(present):
            yield Change(MAX, present, size)
        wanted = {f"{PREFIX}{TIMEOUTS[name]}": value for name, value in self._seconds.items()}
        wanted |= {LIBERAL: int(self.is_liberal)}
        for setting, value in wanted.items():
            number, present = math.ceil(value), sysctl(setting)
            if number and present != str(number):
                yield Change(setting, present, number)

    def set_in_kernel(self) -> list[str]:
        """Set what differs. Returns what the kernel has refused, in words."""
        refused: list[str] = []
        for setting, present, number in self.changes():
            try:
                set_sysctl(setting, number)
            except OSError as error:
                refused.append(f"{setting} = {number} ({error.strerror})")
            else:
                LOG.info("%s was %s and is %d now", setting, present, number)
                if setting == MAX:
                    refused += _enlarge_hash(number)
        return refused

    def render(self) -> str:
        """What `set_in_kernel` would set first, as sysctl(8)'s configuration; what it would replace
        stands in comments.
        """
        lines = [str(change) for change in self.changes()]
        size = self.table_size(os.cpu_count() or 1)
        buckets = _wanted_buckets(size)
        if size > _number(sysctl(MAX)) and buckets is not None:
            before, after = buckets
            lines.append(f"# {HASH_SIZE}: {after} instead of {before}")
        return "".join(f"{line}\n" for line in ["# sysctl", *lines]) if lines else ""

    @property
    def _seconds(self) -> dict[str, float]:
        """The timeouts by their names in the engine."""
        return {name: getattr(self, name) for name in TIMEOUTS}


def _wanted_buckets(size: int) -> tuple[int, int] | None:
    """The buckets that there are, and as many as keep the chains of a full table at four entries,
    as kube-proxy does; None where there are enough. Raises OSError.
    """
    present, wanted = _number(HASH_SIZE.read_text()), size // 4
    return (present, wanted) if present < wanted else None


def _enlarge_hash(size: int) -> list[str]:
    """Returns what the kernel has refused, in words."""
    try:
        if buckets := _wanted_buckets(size):
            HASH_SIZE.write_text(str(buckets[1]))
    except OSError as error:
        return [f"{HASH_SIZE} = {size // 4} ({error.strerror})"]
    return []


def _number(text: str | None) -> int:
    """0 for what is none."""
    return int(text) if text and text.strip().isdecimal() else 0


LOG: Final = logging.getLogger("kbe_nat.daemon")
PREFIX: Final = "net.netfilter.nf_conntrack_"
MAX: Final = f"{PREFIX}max"
LIBERAL: Final = f"{PREFIX}tcp_be_liberal"
TIMEOUTS: Final = {
    "tcp_established": "tcp_timeout_established",
    "tcp_close_wait": "tcp_timeout_close_wait",
    "udp": "udp_timeout",
    "udp_stream": "udp_timeout_stream",
}
"""The kernel's names by the engine's."""
HASH_SIZE: Final = Path("/sys/module/nf_conntrack/parameters/hashsize")
