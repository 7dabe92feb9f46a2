"""The verbs of the command `kbe-nat`: each is one file that exports one function, or one group of
them. A verb with `NODE_FLAGS` is a `NodeCommand`.
"""

from typing import Annotated

import typer

from kbe_nat import __version__
from kbe_nat.cli.conntrack import conntrack
from kbe_nat.cli.demo import demo
from kbe_nat.cli.describe import describe
from kbe_nat.cli.diff import diff
from kbe_nat.cli.doctor import doctor
from kbe_nat.cli.drain import drain
from kbe_nat.cli.dump import dump
from kbe_nat.cli.explain import explain
from kbe_nat.cli.flags.node import NodeCommand
from kbe_nat.cli.get import get
from kbe_nat.cli.playground import playground
from kbe_nat.cli.proxy import proxy
from kbe_nat.cli.replay import replay
from kbe_nat.cli.shadow import shadow
from kbe_nat.cli.strategy import strategy
from kbe_nat.cli.top import top

app = typer.Typer(
    help="Kubernetes Services in userspace.",
    pretty_exceptions_enable=False,
    # Plain help: flags are never cut to fit a column.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command(cls=NodeCommand)(proxy)
app.command()(doctor)
app.command()(get)
app.command()(describe)
app.command()(conntrack)
app.command()(drain)
app.add_typer(strategy, name="strategy")
app.add_typer(playground, name="playground")
app.command()(top)
app.command(cls=NodeCommand)(replay)
app.command(cls=NodeCommand)(explain)
app.command(cls=NodeCommand)(dump)
app.command(cls=NodeCommand)(diff)
app.command(cls=NodeCommand)(shadow)


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
