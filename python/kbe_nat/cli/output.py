"""How results reach the terminal: tables for people, JSON for programs."""

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, Final, Protocol

import click
import msgspec

from kbe_nat.cli.flags.listing import Output
from kbe_nat.cli.flags.options import warn
from kbe_nat.cli.jsonpath import nearest_field
from kbe_nat.cli.table import Table
from kbe_nat.cli.terminal import is_drawn_on, terminal_width
from kbe_nat.errors import SettingError


def show(*parts: str | Table) -> None:
    """Write tables and texts to standard output."""
    sys.stdout.write(text_of(*parts))


def text_of(*parts: str | Table) -> str:
    """Tables and texts as they are written: on a terminal with titles in bold, as wide as it is."""
    width = terminal_width()
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Table):
            head, *rows = part.lines(width)
            lines += [bold(part.title)] if part.title else []
            lines += [bold(head), *rows]
        else:
            lines.append(part)
    return "".join(f"{line}\n" for line in lines)


def bold(text: str) -> str:
    """The text, in bold where standard output is a terminal that shows it."""
    return click.style(text, bold=True) if is_drawn_on() else text


def show_json(value: object, indent: int | None = 2) -> None:
    """Write a value or a struct as JSON, indented, or on one line without `indent`."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=indent) + "\n")
    sys.stdout.flush()


def document_of(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as JSON has it alone: with the version, and the kind that its name says."""
    kind = type(value).__name__.removesuffix("Row")
    return {"apiVersion": API_VERSION, "kind": kind, **msgspec.to_builtins(value)}


def show_document(value: msgspec.Struct, output: Output) -> None:
    """Write a struct, with version and kind."""
    write_document(document_of(value), output)


def show_next(document: dict[str, Any], output: Output) -> None:
    """Write one of several documents, at once: one line of JSON, or YAML behind its mark."""
    if output.form == "json":
        show_json(document, None)
        return
    if output.form == "yaml":
        sys.stdout.write("---\n")
    write_document(document, output)
    sys.stdout.flush()


def show_rows(rows: Iterable[object], kind: str, output: Output) -> None:
    """Write a list of things of a kind."""
    if output.form == "json":
        _show_json_rows(rows, kind)
    else:
        write_document(list_document(kind, [msgspec.to_builtins(row) for row in rows]), output)


def list_document(kind: str, items: list[Any]) -> dict[str, Any]:
    """A list as JSON has it."""
    return {"apiVersion": API_VERSION, "kind": f"{kind}List", "items": items}


def write_document(document: dict[str, Any], output: Output) -> None:
    """An object of JSON, as JSON, YAML, or by a template."""
    if output.template is not None:
        try:
            text = output.template.render(document)
        except ValueError as error:
            raise SettingError("--output", f"jsonpath: {error}") from None
        # kubectl writes no line feed, either.
        sys.stdout.write(text)
        if not text.strip() and document.get("items", True):
            fields = dict.fromkeys(name for each in _objects(document) for name in each)
            hint = nearest_field(output.template.text, fields)
            warn(f"jsonpath: nothing here has such a field{hint}")
    elif output.form == "yaml":
        from kbe_nat.kubeproxy.yaml_text import yaml_text

        sys.stdout.write(yaml_text(document))
    else:
        show_json(document)


def _objects(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document, or those of which it is a list."""
    items: list[dict[str, Any]] = document.get("items", [document])
    return items


def _show_json_rows(rows: Iterable[object], kind: str) -> None:
    """As `show_json` does, each row as it comes."""
    remaining = iter(rows)
    # Asked for before anything is written: where it fails, nothing was.
    first = list(islice(remaining, 1))
    sys.stdout.write(f'{{\n  "apiVersion": "{API_VERSION}",\n  "kind": "{kind}List",\n')
    before = '  "items": ['
    for row in chain(first, remaining):
        text = json.dumps(msgspec.to_builtins(row), indent=2)
        sys.stdout.write(f"{before}\n{textwrap.indent(text, '    ')}")
        before = ","
    sys.stdout.write(f"{before}]\n}}\n" if before.endswith("[") else "\n  ]\n}\n")
    sys.stdout.flush()


def table(
    title: str,
    *columns: str,
    right: int = 0,
    spare: Sequence[str] = (),
    is_wrapped: bool = False,
) -> Table:
    """An empty table, see `Table`."""
    return Table(title, columns, right, spare=spare, is_wrapped=is_wrapped)


def traffic(packets: tuple[int, int] | None, octets: tuple[int, int] | None) -> list[str]:
    """Packets there and back, and bytes there and back; dashes where they are not counted."""
    if packets is None or octets is None:
        return ["-"] * 4
    return list(map(str, (*packets, *octets)))


class Quantiles(Protocol):
    """Of connect times, in seconds."""

    p50: float
    p99: float


def connect(times: Quantiles | None) -> list[str]:
    """Half of the connections were answered within the first, 99 % within the second; dashes where
    none was measured.
    """
    if times is None:
        return ["-"] * 2
    milliseconds = [each * 1000 for each in (times.p50, times.p99)]
    return [f"{each:.0f}ms" if each >= 10 else f"{each:.2g}ms" for each in milliseconds]


UNCOUNTED: Final = (
    "packets and bytes are not counted; from now on they are by"
    " `sysctl -w net.netfilter.nf_conntrack_acct=1`"
)
"""Where the kernel carries connections, and its conntrack does not count."""
API_VERSION: Final = "kbe-nat.io/v1"
"""Of what `-o json` prints; it changes when a field goes or gets another meaning."""
