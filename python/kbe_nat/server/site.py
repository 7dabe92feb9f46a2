"""The pages, forms and feeds of a server, by path."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from kbe_nat.server.answer import TEXT_HEADERS, Answer

Page: TypeAlias = Callable[[], Answer]
"""Status, headers and content. It is called in a thread of its own."""
Query: TypeAlias = Mapping[str, str]
"""The fields behind the question mark of an address."""
Form: TypeAlias = Callable[[Query], Answer]
"""A page that depends on its query; it is called as a `Page` is."""


class Subscription(Protocol):
    """A stream of events to one client."""

    def message(self) -> bytes:
        """The changes since the last call, as a line of JSON; it is called as a `Page` is."""
        ...

    def close(self) -> None:
        """The client is gone."""
        ...


Names: TypeAlias = Callable[[], frozenset[str]]
"""Names of hosts, in lower case."""
Feed: TypeAlias = Callable[[Query], Subscription]
"""Begins a stream. The thread that answers calls it, so it must not wait. Raises ValueError for a
query that is wrong.
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Pages for programs, and what browsers alone ask for."""

    pages: Mapping[str, Page]
    documents: Mapping[str, Page] = field(default_factory=dict)
    """Pages that browsers show."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """Answers to the scripts of these documents."""
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    """Streams to the scripts of these documents."""
    names: Names = frozenset
    """Names under which browsers may ask, beside addresses and localhost."""


def bad_request(reason: str) -> Answer:
    """The answer to a query that is wrong."""
    return 400, TEXT_HEADERS, f"{reason}\n".encode()


NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
