"""Writes man pages and completions of the command, made of the command itself, into a folder like
/usr/share: `command_files.py FOLDER`.

Pages have the date of SOURCE_DATE_EPOCH, or of today.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class
from roff import Roff

from kbe_nat import __version__
from kbe_nat.cli import GROUPS, app
from kbe_nat.cli.verb import TITLES, VerbCommand, group_of, sentence

COMPLETIONS: Final = {
    "bash": "bash-completion/completions/kbe-nat",
    "zsh": "zsh/vendor-completions/_kbe-nat",
    "fish": "fish/vendor_completions.d/kbe-nat.fish",
}
"""Where Debian's shells look below /usr/share."""
LINES: Final = {name: line for verbs in GROUPS.values() for name, line in verbs.items()}
EXIT_CODES: Final = (
    ("0", "It did what was asked."),
    ("1", "What was asked for is not there, or a check failed."),
    ("2", "The command line or a file is wrong. One line on standard error names it."),
    ("130", "Ctrl-C ended it."),
)
FILES: Final = (
    ("/run/kbe-nat/control.sock", "The daemon's control socket."),
    ("/run/kbe-nat/connections", "Connections, for the daemon's next start."),
)


def contexts(context: click.Context) -> Iterator[click.Context]:
    """The command and all below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from contexts(beginning(command, name, context))


def beginning(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    """The context of a command, of whose words none is parsed."""
    return command.context_class(command, parent, name, **command.context_settings)


def page(context: click.Context, date: str) -> str:
    """The man page of a command."""
    command, name = context.command, context.command_path.replace(" ", "-")
    text = command.help or ""
    roff = Roff(name, date, f"kbe-nat {__version__}")
    roff.section("Name")
    roff.raw(f"{roff.escaped(name)} \\- {roff.escaped(LINES.get(name[8:], sentence(text)))}")
    roff.section("Synopsis")
    is_group = isinstance(command, click.Group)
    pieces = ["COMMAND", "[OPTIONS]"] if is_group else command.collect_usage_pieces(context)
    roff.usage(context.command_path, " ".join(pieces))
    roff.section("Description")
    roff.paragraphs(text)
    _parameters(roff, context)
    if isinstance(command, click.Group):
        _commands(roff, context, command)
    if isinstance(command, VerbCommand) and command.examples:
        roff.section("Examples")
        roff.lines(command.examples)
    if context.parent is None:
        roff.section("Exit status")
        roff.terms(EXIT_CODES)
        roff.section("Files")
        roff.terms(FILES)
    elif context.parent.parent is not None:
        roff.section("See also")
        roff.pages([context.parent.command_path.replace(" ", "-")])
    else:
        roff.section("See also")
        roff.pages(["kbe-nat"])
    return roff.text


def _parameters(roff: Roff, context: click.Context) -> None:
    """Arguments, and options under the titles that the help has."""
    if rows := arguments(context):
        roff.section("Arguments")
        roff.terms(rows)
    roff.section("Options")
    for title, members in options(context).items():
        if title:
            roff.subsection(title)
        roff.terms(members)


def arguments(context: click.Context) -> list[tuple[str, str]]:
    """The arguments of a command, each with its meaning."""
    parameters = context.command.get_params(context)
    return [
        (each.make_metavar(context), getattr(each, "help", "") or "")
        for each in parameters
        if isinstance(each, click.Argument)
    ]


def options(context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """The options of a command, each with its meaning, by the titles that the help has; its own
    have none.
    """
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for option in context.command.get_params(context):
        if isinstance(option, click.Option) and (row := option.get_help_record(context)):
            group = group_of(option)
            title = TITLES.get(group, group.capitalize()) if group else ""
            groups.setdefault(title, []).append(row)
    return groups


def _commands(roff: Roff, context: click.Context, group: click.Group) -> None:
    """The commands of a group, those of `kbe-nat` itself under the titles of its help."""
    roff.section("Commands")
    if context.parent is None:
        for title, verbs in GROUPS.items():
            roff.subsection(title)
            roff.terms(list(verbs.items()))
    else:
        roff.terms([(name, sentence(each.help or "")) for name, each in group.commands.items()])
    roff.section("Pages of the commands")
    base = context.command_path.replace(" ", "-")
    roff.pages([f"{base}-{name}" for name in group.list_commands(context)])


def completion(shell: str) -> str:
    """The script that completes words in a shell."""
    words = get_completion_class(shell)
    assert words is not None
    return words(app, {}, "kbe-nat", "_KBE_NAT_COMPLETE").source()


def write(folder: Path) -> None:
    """Write all files below the folder."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(seconds), UTC) if seconds else datetime.now(UTC)
    root = beginning(app, "kbe-nat")
    files = {
        f"man/man1/{context.command_path.replace(' ', '-')}.1": page(context, f"{moment:%Y-%m-%d}")
        for context in contexts(root)
    }
    files |= {place: completion(shell) for shell, place in COMPLETIONS.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> int:
    """Write the files into the folder of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
