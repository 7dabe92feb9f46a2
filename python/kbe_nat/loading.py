"""From files of Kubernetes objects to an engine, in one call."""

import warnings
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from kbe_nat._native import Engine, Limits, Snat, Timeouts
from kbe_nat.errors import ArgumentError, FileError
from kbe_nat.model import Strategy

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from kbe_nat.policy.options import Options


def load(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    node: str = "",
    node_addresses: "Sequence[str | IPv4Address | IPv6Address]" = (),
    strategy: str = Strategy.RANDOM,
    seed: int | None = None,
    limits: Limits | None = None,
    snat: Snat | None = None,
    timeouts: Timeouts | None = None,
    options: "Options | None" = None,
) -> Engine:
    """An engine that serves the Services in these files and directories (YAML or JSON) as a node
    does.

    `node` is the name of a Node among the objects: it tells which endpoints are local, and the
    node's addresses, in whose place `node_addresses` are taken. `strategy` is for Services without
    the annotation. `options` holds the other decisions of an operator
    (`kbe_nat.policy.options.Options`), in the place of these three. `seed`, `limits`, `snat` and
    `timeouts` are those of `Engine`. What the objects do not say is a `UserWarning`.

    Raises `FileError` and `ObjectError`, with file, line and field, when anything is wrong or there
    is no Service, and `ArgumentError`. Cost: linear in the objects.
    """
    # Programs that make their tables themselves do not pay for a YAML parser.
    from kbe_nat.engine_tables import native_tables
    from kbe_nat.policy.options import Options
    from kbe_nat.policy.planner import plan
    from kbe_nat.sources.manifests.manifests import read_manifests

    if options is None:
        options = Options(
            node=node, node_addresses=tuple(map(str, node_addresses)), strategy=_strategy(strategy)
        )
    elif node or node_addresses or strategy != Strategy.RANDOM:
        raise ArgumentError("options say the node and the strategy: give either these or options")
    files = [paths] if isinstance(paths, str | PathLike) else list(paths)
    update = read_manifests([str(path) for path in files])
    if update.errors:
        raise update.errors[-1]
    if not update.snapshot.services:
        raise FileError(f"{', '.join(map(str, files))}: there is no Service in it")
    result = plan(update.snapshot, options)
    for note in (*update.notes, *result.notes):
        warnings.warn(note, stacklevel=2)
    engine = Engine(seed=seed, limits=limits, snat=snat, timeouts=timeouts)
    engine.replace_services(*native_tables(result))
    return engine


def _strategy(name: str) -> Strategy:
    try:
        return Strategy(name)
    except ValueError:
        raise ArgumentError(f"strategy: {name!r} is none of {', '.join(Strategy)}") from None
