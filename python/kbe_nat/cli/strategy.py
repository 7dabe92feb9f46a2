"""`kbe-nat strategy set`: another way to choose backends, while connections stay."""

from typing import Annotated

from kbe_nat.cli.flags.flag import Argument
from kbe_nat.cli.flags.listing import NAMESPACE_FLAG
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.kinds import ServiceName, in_namespace
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.model import Strategy

strategy = VerbGroup("strategy", "How backends are chosen.")


@strategy.verb("set")
def set_strategy(
    service: Annotated[
        str,
        Argument(
            help="NAMESPACE/NAME for all its ports, or NAMESPACE/NAME:PORT; in namespace default"
            " NAME is enough.",
            type=ServiceName(),
        ),
    ],
    name: Annotated[Strategy, Argument(help="The strategy.")],
    namespace: Annotated[str, NAMESPACE_FLAG] = "",
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Choose the backends of a Service in another way from now on; connections and affinity
    stay.

    Examples:
      kbe-nat strategy set svc/web wlc
      kbe-nat strategy set shop/web:http p2c
    """
    service = in_namespace(service, namespace)
    (ports,) = ask(socket, "strategy", int, service=service, strategy=name)
    print(f"{service}: {name} ({ports} service port{'s' if ports != 1 else ''})")


@strategy.verb("list")
def list_strategies() -> None:
    """List the strategies.

    Examples:
      kbe-nat strategy list
    """
    print("\n".join(Strategy))
