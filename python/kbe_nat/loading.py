"""From files of Kubernetes objects to an engine, in one call."""

import os
import warnings
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from os import PathLike
from typing import TYPE_CHECKING, Final, cast

from kbe_nat._native import Engine, Limits, Snat, Timeouts
from kbe_nat.errors import ArgumentError, FileError, KbeNatError, ObjectWarning
from kbe_nat.model import Strategy
from kbe_nat.spelling import none_of

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
    `timeouts` are those of `Engine`. What is left out, and what the objects do not say, is an
    `ObjectWarning` (`kbe_nat.errors`).

    Raises `FileError` and `ObjectError`, with file, line and field, when anything is wrong or there
    is no Service; the first error has the others as its notes. Raises `ArgumentError`, also for a
    node that is none of the objects' Nodes where there are any, and TypeError for an argument of
    another type. Cost: linear in the objects.
    """
    # Programs that make their tables themselves do not pay for a YAML parser.
    from kbe_nat.engine_tables import native_tables
    from kbe_nat.policy.options import Options, strange_node
    from kbe_nat.policy.planner import plan
    from kbe_nat.sources.manifests.manifests import read_manifests

    # Ahead of the files, which may be long.
    engine = Engine(seed=seed, limits=limits, snat=snat, timeouts=timeouts)
    files = _files(paths)
    if options is None:
        if not isinstance(node, str):
            raise TypeError(f"node is text, not {node!r}")
        addresses = _addresses(node_addresses)
        options = Options(node=node, node_addresses=addresses, strategy=_strategy(strategy))
    elif not isinstance(options, Options):
        raise TypeError(f"options is an Options of kbe_nat.policy.options, not {options!r}")
    elif node or node_addresses or strategy != Strategy.RANDOM:
        raise ArgumentError("options say the node and the strategy: give either these or options")
    update = read_manifests(files)
    if update.errors:
        raise _with_notes(*update.errors)
    if not update.snapshot.services:
        raise FileError(f"{', '.join(files)}: there is no Service in it")
    if strange := strange_node(options.node, update.snapshot.nodes):
        raise ArgumentError(f"node: {strange}")
    result = plan(update.snapshot, options)
    for note in (*update.notes, *result.notes):
        warnings.warn(note, ObjectWarning, stacklevel=2)
    engine.replace_services(*native_tables(result))
    return engine


def _with_notes(first: KbeNatError, *others: KbeNatError) -> KbeNatError:
    """The first error, with the others as its notes."""
    for error in others[:NOTED]:
        first.add_note(str(error))
    if len(others) > NOTED:
        first.add_note(f"and {len(others) - NOTED} more")
    return first


def _files(paths: object) -> list[str]:
    single = isinstance(paths, str | PathLike)
    if not single and (not isinstance(paths, Iterable) or isinstance(paths, bytes | bytearray)):
        raise TypeError(f"paths is a path, or several, not {paths!r}")
    several: list[object] = [paths] if single else list(cast(Iterable[object], paths))
    if not several:
        raise ArgumentError("paths is a path, or several, and none is there")
    files = []
    for number, path in enumerate(several):
        place = "paths" if single else f"paths[{number}]"
        name = os.fspath(path) if isinstance(path, str | PathLike) else None
        if not isinstance(name, str):
            raise TypeError(f"{place} is a path, not {path!r}")
        if not name:
            raise ArgumentError(f"{place} is a path, not {path!r}")
        files.append(name)
    return files


def _addresses(addresses: object) -> tuple[str, ...]:
    # A text is a sequence, too: of letters.
    if not isinstance(addresses, Iterable) or isinstance(addresses, str | bytes | bytearray):
        raise TypeError(f"node_addresses is a sequence of addresses, not {addresses!r}")
    canonical = []
    for number, address in enumerate(addresses):
        try:
            # It takes numbers and packed bytes, too.
            canonical.append(str(ip_address(str(address))))
        except ValueError:
            raise ArgumentError(
                f"node_addresses[{number}] is an IP address, not {address!r}"
            ) from None
    return tuple(canonical)


def _strategy(name: str) -> Strategy:
    try:
        return Strategy(name)
    except ValueError:
        raise ArgumentError(f"strategy: {none_of(name, Strategy)}") from None


NOTED: Final = 10
"""Errors that the first one has as notes."""
