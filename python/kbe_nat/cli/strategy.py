"""`kbe-nat strategy set` and `unset`: another way to choose backends, while connections stay."""

from pathlib import Path
from typing import Annotated, TypeAlias

from kbe_nat.cli.flags.flag import Argument
from kbe_nat.cli.flags.listing import NAMESPACE_FLAG
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.kinds import ServiceName, in_namespace
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.model import Strategy

strategy = VerbGroup("strategy", "How backends are chosen.")
Service: TypeAlias = Annotated[
    str,
    Argument(
        help="NAMESPACE/NAME for all its ports, or NAMESPACE/NAME:PORT; in namespace default"
        " NAME is enough.",
        type=ServiceName(),
    ),
]


@strategy.verb("set")
def set_strategy(
    service: Service,
    name: Annotated[
        Strategy, Argument(help="One of those of kbe-nat strategy list.", metavar="STRATEGY")
    ],
    namespace: Annotated[str, NAMESPACE_FLAG] = "",
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Choose the backends of a Service in another way from now on; connections and affinity
    stay. It lasts until kbe-nat strategy unset, or the end of the daemon.

    Examples:
      kbe-nat strategy set svc/web wlc
      kbe-nat strategy set shop/web:http p2c
    """
    _set(service, namespace, name, socket)


@strategy.verb("unset")
def unset_strategy(
    service: Service,
    namespace: Annotated[str, NAMESPACE_FLAG] = "",
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Choose the backends of a Service as its annotation says again, or as all others'.

    Examples:
      kbe-nat strategy unset svc/web
    """
    _set(service, namespace, None, socket)


def _set(service: str, namespace: str, name: Strategy | None, socket: Path) -> None:
    service = in_namespace(service, namespace)
    (ports,) = ask(socket, "strategy", int, service=service, strategy=name)
    if not ports:
        print(f"{service}: no strategy was set: nothing to unset")
        return
    chosen = name or "as its annotation or --strategy says"
    print(f"{service}: {chosen} ({ports} service port{'s' if ports != 1 else ''})")


@strategy.verb("list")
def list_strategies() -> None:
    """List the strategies.

    Examples:
      kbe-nat strategy list
    """
    print("\n".join(Strategy))
