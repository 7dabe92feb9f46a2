"""`kbe-nat strategy set`: another way to choose backends, while connections stay."""

from typing import Annotated

import typer

from kbe_nat.cli.flags.options import Socket
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.model import Strategy

strategy = typer.Typer(help="How backends are chosen.", rich_markup_mode=None, no_args_is_help=True)


@strategy.command("set")
def set_strategy(
    service: Annotated[
        str, typer.Argument(help="namespace/name for all its ports, or namespace/name:port.")
    ],
    name: Annotated[Strategy, typer.Argument(help="The strategy.")],
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Choose the backends of a Service in another way from now on; connections and affinity
    stay.
    """
    (ports,) = ask(socket, "strategy", int, service=service, strategy=name)
    print(f"{service}: {name} ({ports} service port{'s' if ports != 1 else ''})")


@strategy.command("list")
def list_strategies() -> None:
    """List the strategies."""
    print("\n".join(Strategy))
