"""The verbs of the command `kbe-nat`: each is one file that exports a command, or a group of them,
of the file's name. A verb is imported when it is called, never for the help that lists them: the
daemon stays for months, and holds no module of another verb in memory.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final, cast

import click

from kbe_nat.cli.verb import VerbGroup, version_option

GROUPS: Final = {
    "Serve": {
        "proxy": "Serve the Services of a cluster on this node",
        "doctor": "Say whether the proxy can run here",
        "drain": "Let a backend's connections run out",
        "strategy": "Choose backends in another way",
        "handover": "Let the next daemon take over",
    },
    "Ask the daemon": {
        "get": "List services, endpoints, flows, rules, counters",
        "describe": "Show everything about a Service",
        "top": "Watch the busiest endpoints",
        "conntrack": "List, watch, count or end connections",
        "ipvs": "List services in the format of ipvsadm",
        "decisions": "Show which backend connections got, and why",
    },
    "Study": {
        "explain": "Say what happens to a packet, and why",
        "replay": "Send a capture through the engine",
        "lab": "Compare balancing strategies",
    },
    "Compare with kube-proxy": {
        "dump": "Write the rules that kube-proxy would have",
        "diff": "Compare a node's rules with kube-proxy's",
        "shadow": "Decide beside the node's proxy, and compare",
    },
    "Try": {
        "demo": "Walk through an example on real packets",
        "playground": "Make a small cluster on this machine",
    },
    "This command": {
        "version": "Print the versions of command and daemon",
        "completion": "Print the script that completes words in a shell",
    },
}
"""The verbs in the order of the help, with a line about each."""
VERBS: Final = tuple(name for verbs in GROUPS.values() for name in verbs)


AHEAD: Final = {"--socket": "--socket", "--namespace": "--namespace", "-n": "--namespace"}
"""Flags with a value that kubectl's users write ahead of the verb. In long, since -n has another
meaning in verbs of other programs' habits.
"""
NESTED: Final = ("strategy", "lab", "playground")
"""Verbs of two words."""


class Verbs(Mapping[str, click.Command]):
    """The commands of the verbs by their names."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in VERBS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class RootGroup(VerbGroup):
    """`kbe-nat` itself."""

    def __init__(self) -> None:
        super().__init__(
            "kbe-nat",
            "A Service proxy for Kubernetes nodes, in kube-proxy's place or beside it, that"
            " explains, replays and compares its decisions.",
        )
        self.epilog = (
            "The variable KBE_NAT_SOCKET stands for --socket, KBE_NAT_PLAYGROUND for --state."
        )
        # click asks for a name, for all names, or for all commands: never does it add any.
        self.commands = cast("dict[str, click.Command]", Verbs())
        self.params.append(version_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`help VERB` is `VERB --help`; help itself has no more to say than all of it. Flags of
        verbs may stand ahead of the verb, as with kubectl: they are read behind it.
        """
        args = _behind_verb(args)
        if args[:1] == ["help"]:
            args = [*(word for word in args[1:] if word != "help"), "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click. Raises `UsageError` for no verb, with a hint where it is a kind of `get`, or
        nearly one.
        """
        word = args[0]
        if word not in VERBS and not word.startswith("-"):
            from kbe_nat.cli.kinds import KIND_WORDS
            from kbe_nat.spelling import hint, nearest

            if word.lower() in KIND_WORDS:
                raise click.UsageError(f"{word} is a kind: kbe-nat get {word}", ctx)
            kind = hint(word, KIND_WORDS, "kbe-nat get ")
            if kind and not nearest(word, VERBS):
                raise click.UsageError(f"No such command {word!r}{kind}", ctx)
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Below the verbs, and as far on the left as their groups."""
        formatter.write(f"\n{self.epilog}\n")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By group, with lines that need no verb to be imported."""
        for title, verbs in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()), col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The verbs, which need not be imported, or the flags."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=line)
            for verbs in GROUPS.values()
            for name, line in verbs.items()
            if name.startswith(incomplete)
        ]


def _behind_verb(arguments: list[str]) -> list[str]:
    """The words with --socket and --namespace behind the verb that they stand ahead of."""
    flags: list[str] = []
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        word = arguments[place]
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if name not in AHEAD:
            return arguments
        length = 2 if word == name else 1
        value = arguments[place + 1 : place + 2]
        if length == 1:
            value = [word[len(name) :].removeprefix("=")]
        flags += [AHEAD[name], *value]
        place += length
    end = place + (2 if {*arguments[place : place + 1]} & {*NESTED} else 1)
    return [*arguments[place:end], *flags, *arguments[end:]]


@cache
def _command(name: str) -> click.Command:
    command: click.Command = getattr(import_module(f"kbe_nat.cli.{name}"), name)
    return command


app = RootGroup()
