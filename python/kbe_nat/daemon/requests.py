"""The verbs of the control socket: the parameters of each, with their types and ranges."""

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from kbe_nat.daemon.rows import DecisionAction, NameKind
from kbe_nat.errors import ControlError
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names
from kbe_nat.sources.address import split_address, without_port
from kbe_nat.sources.manifests.documents import reason_and_path

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]
Hexadecimal: TypeAlias = Annotated[str, msgspec.Meta(max_length=1 << 18)]


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class _Selection(_Parameters, frozen=True):
    names: Annotated[list[Text], msgspec.Meta(max_length=1000)] = []
    namespace: Text | None = None
    selector: Text | None = None


class _Filters(_Selection, frozen=True):
    protocol: Text | None = None
    source: Text | None = None
    destination: Text | None = None
    backend: Text | None = None
    state: Text | None = None


class _Ends(_Parameters, frozen=True):
    """Connections, each by protocol, client and frontend."""

    flows: Annotated[list[tuple[Text, Text, Text]], msgspec.Meta(max_length=1000)]


class _Named(_Parameters, frozen=True):
    names: Annotated[list[Text], msgspec.Meta(max_length=1000)] = []


class _Names(_Parameters, frozen=True):
    kind: NameKind


class _Listing(_Filters, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None


class _Decisions(_Selection, frozen=True):
    client: Text | None = None
    verdict: DecisionAction | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    is_followed: bool = False


class _Dump(_Parameters, frozen=True):
    form: Form | None = None
    names: Names = Names.MODERN
    family: FamilyName | None = None


class _Packet(_Parameters, frozen=True):
    packet: Hexadecimal
    device: Text = ""


class _Strategy(_Parameters, frozen=True):
    service: Text
    strategy: Text | None


class _Backends(_Parameters, frozen=True):
    backends: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=1000)]


class _Drain(_Backends, frozen=True):
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    is_followed: bool = True


VERBS: Final[dict[str, type[_Parameters]]] = {
    "status": _Parameters,
    "services": _Selection,
    "endpoints": _Selection,
    "slices": _Selection,
    "nodes": _Named,
    "names": _Names,
    "describe": _Selection,
    "flows": _Listing,
    "delete": _Ends,
    "flush": _Parameters,
    "decisions": _Decisions,
    "events": _Selection,
    "rules": _Parameters,
    "stats": _Parameters,
    "dump": _Dump,
    "explain": _Packet,
    "strategy": _Strategy,
    "drain": _Drain,
    "undrain": _Backends,
    "handover": _Parameters,
}


def parse(line: bytes) -> dict[str, Any]:
    """The request in a line of JSON, an object with a verb. Raises `ControlError`."""
    try:
        request = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        raise ControlError('a request is a line of JSON: {"verb": ...}')
    return request


def parameters(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Verb and parameters of a request. Raises `ControlError`, which names the parameter that is
    wrong.
    """
    verb = request["verb"]
    arguments = {name: value for name, value in request.items() if name != "verb"}
    wanted = VERBS.get(verb)
    if wanted is None:
        raise ControlError(f"{_excerpt(verb)} is no verb; there are {', '.join(VERBS)}")
    for name, value in arguments.items():
        if isinstance(value, str) and not value.isprintable():
            raise ControlError(f"{verb}: {_excerpt(name)}: it cannot be printed: {_excerpt(value)}")
    try:
        return verb, msgspec.structs.asdict(msgspec.convert(arguments, wanted))
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        where = (
            f"{path}: {reason}, not {_excerpt(arguments[path])}" if path in arguments else reason
        )
        raise ControlError(f"{verb}: {_printable(where)}") from None


def end_of(text: str) -> tuple[str, int]:
    """Address and port of an end of a connection. Raises `ControlError`."""
    try:
        address, port = split_address(text)
    except ValueError as error:
        raise ControlError(f"flows: {error}") from None
    if port is None:
        raise ControlError(f"flows: {without_port(text)}")
    return address, port


def _excerpt(value: object) -> str:
    """On one line, and not all of it where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


SHOWN: Final = 60
"""Characters."""
