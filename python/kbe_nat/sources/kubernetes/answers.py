"""Values that answers of the API server are decoded into, whatever their encoding.

A `Decoder` knows one content type; `kbe_nat.sources.kubernetes.encodings` has all of them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from kbe_nat.errors import KbeNatError, ObjectError
from kbe_nat.sources.kubernetes.resources import Resource
from kbe_nat.sources.objects import ObjectKey
from kbe_nat.sources.snapshot import ClusterObject


class AnswerError(KbeNatError):
    """An answer is not what was asked for: truncated, of another kind, no JSON. Nothing of it is
    applied.
    """


class Entry(NamedTuple):
    """An object of a list or a watch."""

    key: ObjectKey
    """Kind, namespace and name."""
    object: ClusterObject | ObjectError
    """The object, or the error that refuses it."""


class ListPage(NamedTuple):
    """A list, or a page of it."""

    version: int
    """The resourceVersion of the whole list."""
    continuation: str
    """Asks for the next page; empty on the last one."""
    entries: Sequence[Entry]


class EventKind(StrEnum):
    """The types of watch events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class Failure(NamedTuple):
    """A Status that says why a request failed."""

    code: int
    reason: str
    message: str
    is_too_large: bool = False
    """Whether the server does not have the resourceVersion yet that was asked for."""
    continuation: str = ""
    """With an expired continue token: a new one."""


class Refusal(KbeNatError):
    """The server answered with another status than 200, or with an ERROR event."""

    def __init__(self, failure: Failure, retry_after: float | None = None) -> None:
        super().__init__(failure.message or failure.reason or f"status {failure.code}")
        self.failure = failure
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.failure.code}: {super().__str__()}"


class Withheld(KbeNatError):
    """A sound answer that is not applied before another one confirms it."""


class WatchEvent(NamedTuple):
    """One event of a watch."""

    kind: EventKind
    version: int = 0
    """The resourceVersion of the change; 0 for an ERROR."""
    entry: Entry | None = None
    """None for bookmarks and errors. Of a deleted object only the key counts."""
    is_initial_end: bool = False
    """Whether this bookmark ends the initial events."""
    failure: Failure | None = None


class Splitter(Protocol):
    """Cuts a stream into events. Chunk borders fall anywhere."""

    def feed(self, chunk: bytes) -> Sequence[bytes]:
        """The events that are whole now. Raises `AnswerError` for one without an end."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether no part of an event is left."""
        ...


class Decoder(Protocol):
    """One encoding. Cost of each method: linear in the bytes."""

    media_type: str
    """In `Accept` and `Content-Type`."""

    def splitter(self) -> Splitter:
        """For one watch."""
        ...

    def page(self, body: bytes, resource: Resource) -> ListPage:
        """The answer to a LIST. Raises `AnswerError`."""
        ...

    def event(self, frame: bytes, resource: Resource) -> WatchEvent:
        """One event. Raises `AnswerError`."""
        ...

    def failure(self, body: bytes, code: int) -> Failure:
        """The failure that the body of a refusal tells of; `code` is the HTTP status."""
        ...
