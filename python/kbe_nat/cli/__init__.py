"""The verbs of the command `kbe-nat`: each is one file that exports one function, or one group of
them, of the file's name. A verb is imported when it is called, or when help shows them all: the
daemon stays for months, and holds no module of another verb in memory.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from inspect import signature
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from kbe_nat import __version__

VERBS: Final = (
    "demo",
    "proxy",
    "doctor",
    "get",
    "describe",
    "conntrack",
    "decisions",
    "drain",
    "handover",
    "top",
    "replay",
    "explain",
    "dump",
    "diff",
    "shadow",
    "strategy",
    "playground",
    "lab",
)
"""In the order of the help."""


class Verbs(Mapping[str, Any]):
    """The commands of the verbs by their names."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        if name not in VERBS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class RootCommand(TyperGroup):
    """`kbe-nat` itself."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(**attributes)
        # typer asks for one name, for all names, or for all commands: never does it add any.
        self.commands = cast("dict[str, Any]", Verbs())


@cache
def _command(name: str) -> Any:  # noqa: ANN401
    verb = getattr(import_module(f"kbe_nat.cli.{name}"), name)
    commands = typer.Typer(rich_markup_mode=None)
    if isinstance(verb, typer.Typer):
        commands.add_typer(verb, name=name)
    else:
        commands.command(name, cls=_command_class(verb))(verb)
    # `get_command` would take a group of one command for the command itself.
    return get_group(commands).commands[name]


def _command_class(verb: Any) -> type[TyperCommand]:  # noqa: ANN401
    """`ProxyCommand` for the daemon's verb, `NodeCommand` for another verb with `NODE_FLAGS`; such
    a verb has imported it already.
    """
    parameters = signature(verb).parameters
    if "node_address" not in parameters:
        return TyperCommand
    if "write_config_to" in parameters:
        from kbe_nat.cli.flags.command_line import ProxyCommand

        return ProxyCommand
    from kbe_nat.cli.flags.node import NodeCommand

    return NodeCommand


app = typer.Typer(
    cls=RootCommand,
    help="Kubernetes Services in userspace.",
    pretty_exceptions_enable=False,
    # Plain help: flags are never cut to fit a column.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Kubernetes Services in userspace."""
    if version:
        typer.echo(f"kbe-nat {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
