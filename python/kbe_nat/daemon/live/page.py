"""The live page: its document, its streams, and the answers to its questions about packets.

It only reads. The document is one file with its script and style inside; browsers run nothing else
on it, since the policy that comes with it names the digests of these two and forbids all others.
"""

import base64
import hashlib
import re
import time
from collections.abc import Callable
from functools import cached_property
from importlib.resources import files
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from kbe_nat import packets as wire
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live.selection import View
from kbe_nat.daemon.live.stream import PageStream
from kbe_nat.daemon.live.traffic import Traffic
from kbe_nat.daemon.rows import StatusRow
from kbe_nat.daemon.verbs import explain_live
from kbe_nat.explain import sentence, verdict_of
from kbe_nat.server.answer import JSON_HEADERS, Answer
from kbe_nat.server.site import NO_STORE, Query, bad_request
from kbe_nat.sources.address import split_address, without_port
from kbe_nat.sources.manifests.documents import reason_and_path

_Fields = TypeVar("_Fields", bound=msgspec.Struct)


class PacketQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query about a packet."""

    source: Annotated[str, msgspec.Meta(max_length=60)] = msgspec.field(name="from")
    """Address, or address and port."""
    destination: Annotated[str, msgspec.Meta(max_length=60)] = msgspec.field(name="to")
    """Address and port."""
    protocol: Literal["tcp", "udp", "sctp"] = msgspec.field(name="proto", default="tcp")


class LivePage:
    """All of it, for one daemon."""

    def __init__(self, controller: Controller, status: Callable[[], StatusRow]) -> None:
        self._controller = controller
        self._status = status
        self._started = time.time()
        self.traffic = Traffic(controller)
        self._streams: set[PageStream] = set()

    def document(self) -> Answer:
        """The page, which is the same for everybody."""
        return self._document

    def stream(self, query: Query) -> PageStream:
        """A stream of what a page shows. Raises ValueError, which names the field."""
        view = _read(query, View)
        stream = PageStream(self._controller, self._status, self.traffic, view, self._leave)
        self._streams.add(stream)
        return stream

    def explain(self, query: Query) -> Answer:
        """The verdict on the first packet of a connection, and why. It changes nothing."""
        try:
            question = _read(query, PacketQuestion)
            packet = self._packet(question)
        except ValueError as error:
            return bad_request(str(error))
        row = explain_live(self._controller, packet)
        content = {"sentence": sentence(packet, row), "verdict": verdict_of(row)}
        return 200, {**JSON_HEADERS, **NO_STORE}, msgspec.json.encode(content)

    @cached_property
    def _document(self) -> Answer:
        content = files(__package__).joinpath("page.html").read_bytes()
        policy = POLICY.format(*(_digest(content, tag) for tag in (b"script", b"style")))
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            **NO_STORE,
        }
        return 200, headers, content

    def _packet(self, question: PacketQuestion) -> bytes:
        """The bytes of a packet. Raises ValueError."""
        address, port = split_address(question.source)
        destination, destination_port = split_address(question.destination)
        if destination_port is None:
            raise ValueError(without_port(question.destination))
        end = (address, EPHEMERAL_PORT if port is None else port)
        return wire.opening(question.protocol, end, (destination, destination_port))

    def _leave(self, stream: PageStream) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self.traffic.forget()


def _read(query: Query, kind: type[_Fields]) -> _Fields:
    """The fields of a query. Raises ValueError, which names the field."""
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        raise ValueError(f"{path}: {reason}" if path else reason) from None


def _digest(content: bytes, tag: bytes) -> str:
    """The source that allows what stands between these tags, in a policy's words."""
    match = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
    assert match is not None
    return "sha256-" + base64.b64encode(hashlib.sha256(match[1]).digest()).decode()


POLICY: Final = (
    "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
EPHEMERAL_PORT: Final = 49152
