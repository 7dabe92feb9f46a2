"""`replay --at DURATION -f FILE`: other objects from a moment of the capture on.

Objects of one moment take the place of all before. While a change is to come, packets are read one
by one, so that the first packet of its time or later meets the new objects, and none before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from kbe_nat.cli.flags.values import parse_duration
from kbe_nat.drivers.capture import MAX_PACKETS, CaptureQueue
from kbe_nat.drivers.queue import Batch, PacketQueue
from kbe_nat.errors import SettingError


@dataclass(frozen=True, slots=True)
class Change:
    """Files of objects, and from when on they count."""

    time: int
    """Nanoseconds after the first packet."""
    text: str
    """The same, as it was typed."""
    files: tuple[str, ...]


def split_changes(arguments: list[str]) -> tuple[list[str], list[Change]]:
    """The arguments without each --at and the files behind it, and what these say. Raises
    `SettingError`.
    """
    rest: list[str] = []
    moments: list[tuple[str, list[str]]] = []
    words: Iterator[str] = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
            break
        name, value = _flag(word)
        if name == AT:
            moments.append((_value(value, words, name), []))
        elif name in FILES and moments:
            moments[-1][1].append(_value(value, words, name))
        else:
            rest.append(word)
    changes = [Change(_time(text), text, tuple(files)) for text, files in moments]
    for change in changes:
        if not change.files:
            raise SettingError(
                AT, f"{change.text}: say which objects count then: {AT} DURATION -f FILE"
            )
    return rest, sorted(changes, key=lambda change: change.time)


def _flag(word: str) -> tuple[str, str | None]:
    """The name of a flag, and the value that is written in the same word."""
    if word.startswith("--"):
        name, sign, value = word.partition("=")
        return name, value if sign else None
    if word.startswith("-f") and word != "-f":
        return "-f", word[2:]
    return word, None


def _value(value: str | None, words: Iterator[str], name: str) -> str:
    if value is None:
        value = next(words, None)
    if value is None:
        raise SettingError(name, "it needs a value")
    return value


def _time(text: str) -> int:
    try:
        time = parse_duration(text)
    except ValueError as error:
        raise SettingError(AT, str(error)) from None
    if time < 0:
        raise SettingError(AT, f"{text!r} is before the first packet")
    return time


@dataclass(slots=True)
class ChangingObjects:
    """A `PacketQueue` around another one that applies changes when their time comes."""

    queue: PacketQueue
    source: CaptureQueue
    changes: list[tuple[Change, Callable[[], None]]]
    """In the order of their times; those that are still to come."""
    _start: int | None = field(default=None)

    def receive(self) -> Batch | None:
        """See `PacketQueue`."""
        self.source.max_packets = 1 if self.changes else MAX_PACKETS
        batch = self.queue.receive()
        if batch is None or not len(batch):
            return batch
        if self._start is None:
            self._start = batch.now
        while self.changes and batch.now - self._start >= self.changes[0][0].time:
            _, apply = self.changes.pop(0)
            apply()
        return batch

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        self.queue.set_verdicts(batch, verdicts, released)


AT: Final = "--at"
FILES: Final = ("-f", "--filename", "--manifests")
