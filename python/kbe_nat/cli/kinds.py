"""Kinds of things that listings show, by kubectl's names for them: long, short, in either number.

Words of a command line name kinds and things: `svc`, `svc web api`, `svc,ep`, `svc/web ep/web`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from kbe_nat.cli.flags.flag import Argument
from kbe_nat.errors import SettingError
from kbe_nat.model import qualified
from kbe_nat.spelling import hint

ALIASES: Final = {
    "services": ("svc", "service"),
    "endpoints": ("ep", "endpoint"),
    "endpointslices": ("eps", "endpointslice"),
    "nodes": ("no", "node"),
    "pods": ("po", "pod"),
    "replicationcontrollers": ("rc", "replicationcontroller"),
    "flows": ("flow", "connections"),
    "rules": ("rule",),
    "stats": ("stat", "counters"),
    "status": (),
}
"""Every kind that a listing has, with its other names."""
NAMED_BY: Final = {
    "services": "services",
    "endpoints": "services",
    "endpointslices": "services",
    "flows": "services",
    "nodes": "nodes",
}
"""Whose names stand behind a kind; the others have none."""
KIND_WORDS: Final = {word: kind for kind, aliases in ALIASES.items() for word in (kind, *aliases)}


class Resources(click.ParamType[str]):
    """A word that names a kind, kinds with commas between, or a kind and a thing."""

    name = "kind"

    def __init__(self, kinds: Sequence[str], *, has_names: bool = True) -> None:
        """`has_names` says whether the daemon knows the names of things of these kinds."""
        self.kinds = kinds
        self.has_names = has_names

    def get_missing_message(self, param: Any, ctx: Any) -> str:  # noqa: ANN401
        """See click."""
        return f"KIND is one of {_listed(self.kinds)}"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[Any]:  # noqa: ANN401
        """The kinds, until one is there."""
        from click.shell_completion import CompletionItem

        if param is not None and ctx.params.get(param.name):
            return []
        return [CompletionItem(kind) for kind in self.kinds if kind.startswith(incomplete)]


class ServiceName(click.ParamType[str]):
    """A word that names a Service or a port of it, by KIND/NAME too, without the kind."""

    name = "name"

    def __init__(self, names_of: str = "services") -> None:
        """`names_of` is what a shell offers, see `kbe_nat.cli_names`."""
        self.names_of = names_of

    def convert(self, value: Any, param: Any, ctx: Any) -> str:  # noqa: ANN401
        """See click."""
        return service_name(str(value))


def service_name(word: str) -> str:
    """The name in NAME, NAMESPACE/NAME or KIND/NAME, of a Service or of its endpoints."""
    kind, _, name = word.partition("/")
    return name if name and KIND_WORDS.get(kind.lower()) in ("services", "endpoints") else word


def in_namespace(name: str, namespace: str) -> str:
    """The name with its namespace, which is that of -n or "default" where it says none. Raises
    `SettingError` where it says another one than -n.
    """
    place, slash, _ = name.partition("/")
    if slash and namespace not in ("", place):
        raise SettingError("--namespace", f"it is {namespace}, and {name} is of {place}")
    return qualified(name, namespace)


def resources(words: Sequence[str], kinds: Sequence[str], verb: str) -> dict[str, list[str]]:
    """The things of each kind that words name; no things: all. Raises `SettingError`."""
    if "/" not in words[0]:
        named = dict.fromkeys(
            (_kind(word, kinds, verb) for word in words[0].split(",") if word), ()
        )
        if not named:
            raise SettingError("KIND", f"it is one of {', '.join(kinds)}")
        return {kind: list(words[1:]) for kind in named}
    things: dict[str, list[str]] = {}
    for word in words:
        kind, slash, name = word.partition("/")
        if not slash or not name:
            raise SettingError("KIND", f"{word!r} is not KIND/NAME, as the words before it are")
        things.setdefault(_kind(kind, kinds, verb), []).append(name)
    return things


def _kind(word: str, kinds: Sequence[str], verb: str) -> str:
    """The kind that a word names. Raises `SettingError`."""
    kind = KIND_WORDS.get(word.lower())
    if kind in kinds:
        assert kind
        return kind
    if kind is None:
        words = [each for name in kinds for each in (name, *ALIASES[name])]
        way = hint(word, words) or f"; see kbe-nat {verb} --help"
        raise SettingError("KIND", f"{word!r} is none of {_listed(kinds)}{way}")
    elsewhere = ELSEWHERE.get(kind, "")
    if verb == "describe" and kind != "pods":
        elsewhere = (
            f", which kbe-nat get {ALIASES[kind][0] if ALIASES[kind] else kind} -o wide lists"
        )
    raise SettingError("KIND", f"{verb} has no {kind}{elsewhere}: it has {_listed(kinds)}")


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} ({ALIASES[kind][0]})" if ALIASES[kind] else kind for kind in kinds)


NAMES: Final = Argument(
    "Services, or their ports, as NAME, NAME:PORT or svc/NAME.", "NAME", ServiceName()
)
ELSEWHERE: Final = {
    "pods": ", which kubectl get pods and kbe-nat playground get pods list",
    "replicationcontrollers": ", which kubectl get rc and kbe-nat playground get rc list",
}
"""Where kinds are listed that the daemon does not follow."""
