"""Which requests of browsers come from pages of ours.

A browser that shows the page of a stranger sends the stranger's requests to any address that the
browser reaches, loopback included. Two ways of that are closed here:

- **DNS rebinding**: the stranger's name resolves to our address, so that its page counts as ours.
  The request names the stranger's host, so hosts are answered that nobody can rebind: addresses,
  localhost, and the names of this machine.
- **Requests across sites**: answers would not be readable, but streams would hold the places of
  operators. Browsers say from where a request comes (Fetch Metadata, and Origin before it).

Programs such as curl send neither, and say the host that they were told.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from kbe_nat.server.answer import TEXT_HEADERS, Answer


def refusal(
    headers: Mapping[str, str], names: frozenset[str], *, is_document: bool
) -> Answer | None:
    """The answer to a request that does not come from a page of ours; None for others. A document
    may be opened from everywhere, as by a link.
    """
    host = headers.get("Host", "")
    if not _is_ours(host, names):
        return MISDIRECTED
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return CROSS_SITE
    site = headers.get("Sec-Fetch-Site", "none")
    is_opened = is_document and (
        headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    )
    return None if site in ("none", "same-origin") or is_opened else CROSS_SITE


def _is_ours(host: str, names: frozenset[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


MISDIRECTED: Final[Answer] = (
    421,
    TEXT_HEADERS,
    b"this page answers to addresses, localhost and the names of its node alone\n",
)
CROSS_SITE: Final[Answer] = (403, TEXT_HEADERS, b"this page answers no other site\n")
