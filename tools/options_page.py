"""Write docs/options.md: every option of every verb, from the command itself, as its man pages have
them, and every flag of kube-proxy.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click
from command_files import LINES, arguments, beginning, contexts, options
from written import write

from kbe_nat.cli import app
from kbe_nat.cli.verb import VerbCommand, sentence
from kbe_nat.kubeproxy.flags import FLAGS
from kbe_nat.kubeproxy.inapplicable import reason_against

PAGE: Final = Path(__file__).parents[1] / "docs/options.md"
HEAD: Final = """# Options of every verb

`kbe-nat VERB --help` and `man kbe-nat-VERB` say the same; `tools/options_page.py` writes this page.
Options of `kbe-nat proxy` can stand in a file too: [configuration.md](configuration.md).

The variable `KBE_NAT_SOCKET` takes the place of `--socket`, and `KBE_NAT_PLAYGROUND` that of
`--state` of the playground. The exit code is 0, 1 when what was asked for is not there or a check
failed, 2 when the command line or a file is wrong, and 130 after Ctrl-C.
"""
KUBE_PROXY: Final = """
## Flags of kube-proxy

`kbe-nat proxy` takes each of them by its name, in Go's syntax
([configuration.md](configuration.md#flags)). The second column is the field of the configuration
file that says the same. Where the third column has text, the flag has no effect, for that reason.

| flag | field | no effect, because |
|---|---|---|"""


def page() -> str:
    """The page."""
    lines = [HEAD]
    for context in contexts(beginning(app, "kbe-nat")):
        lines += section(context)
    lines += [KUBE_PROXY.lstrip(), *map(kube_proxy_row, sorted(FLAGS))]
    return "\n".join(lines) + "\n"


def section(context: click.Context) -> Iterator[str]:
    """What a command is for, how it is called, and its options."""
    command, path = context.command, context.command_path
    text = command.help or ""
    yield f"## {path}\n"
    # A verb of kbe-nat itself has its line in the list of verbs.
    yield f"{LINES.get(path.removeprefix('kbe-nat '), sentence(text))}.\n"
    is_group = isinstance(command, click.Group)
    pieces = ["COMMAND", "[OPTIONS]"] if is_group else command.collect_usage_pieces(context)
    yield "```text"
    yield f"{path} {' '.join(pieces)}"
    if isinstance(command, VerbCommand) and command.examples:
        yield ""
        yield from command.examples
    yield "```\n"
    if rows := arguments(context):
        yield from table("argument", rows)
    for title, members in options(context).items():
        yield from table(title or "option", members)


def table(head: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms and their meanings."""
    yield f"| {head} | |"
    yield "|---|---|"
    for term, meaning in rows:
        yield f"| `{cell(term)}` | {cell(meaning)} |"
    yield ""


def cell(text: str) -> str:
    """A text on one line, in which nothing ends the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def kube_proxy_row(name: str) -> str:
    """One line of the table of kube-proxy's flags."""
    flag = FLAGS[name]
    field = f"`{flag.path}`" if flag.path else ""
    return f"| `--{name}` | {field} | {cell(reason_against(flag))} |"


if __name__ == "__main__":
    sys.exit(write(PAGE, page(), __doc__))
