"""Answers to requests over HTTP, whichever server gives them."""

from collections.abc import Callable
from typing import Final, TypeAlias

Answer: TypeAlias = tuple[int, dict[str, str], bytes]
"""Status, headers and content."""
Respond: TypeAlias = Callable[[str], Answer]
"""Answers a request for a path, which comes without its query."""
JSON_HEADERS: Final = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
TEXT_HEADERS: Final = {
    "Content-Type": "text/plain; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
}
NOT_FOUND: Final[Answer] = (404, TEXT_HEADERS, b"404 page not found\n")
