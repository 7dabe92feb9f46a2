"""Verbs as click's commands: parameters by signature, help with groups and examples.

A function becomes a verb by `verb`, or by `VerbGroup.verb` where several belong together. Its
docstring is the help. A paragraph that begins with `Examples:` is printed line by line, as it
stands.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from textwrap import fill
from typing import Any, Final

import click

from kbe_nat import __version__, interrupt
from kbe_nat.cli.flags.parameters import Flags, Option, Settings, parameter
from kbe_nat.errors import SettingError


class Page(click.HelpFormatter):
    """A page of help. Flags and paths are never broken at a dash."""

    def write_text(self, text: str) -> None:
        """Paragraphs."""
        paragraphs = [self._wrap(each, self.current_indent) for each in text.split("\n\n")]
        self.write("\n\n".join(paragraphs) + "\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """A list with its terms on the left; a long term stands on a line alone."""
        rows = list(rows)
        first = max((len(term) for term, _ in rows if len(term) <= col_max), default=0)
        column = self.current_indent + first + col_spacing
        for term, text in rows:
            lines = self._wrap(text, column).lstrip()
            head = f"{'':{self.current_indent}}{term}"
            gap = f"\n{'':{column}}" if len(term) > first else " " * (column - len(head))
            self.write(f"{head}{gap if lines else ''}{lines}\n")

    def _wrap(self, text: str, indent: int) -> str:
        return fill(
            " ".join(text.split()),
            self.width,
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )


class Context(click.Context):
    """Of a command whose help is a `Page`."""

    formatter_class = Page


class VerbCommand(click.Command):
    """A verb."""

    context_class = Context

    def __init__(self, name: str, function: Callable[..., Any], tables: dict[str, Flags]) -> None:
        self._function = function
        self._settings: dict[str, Settings] = {}
        self._context_name = ""
        self.about, self.examples = _parts(function.__doc__ or "")
        super().__init__(
            name,
            callback=self._call,
            params=list(self._parameters(tables)),
            help=self.about,
            context_settings=CONTEXT,
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click. As in kubectl, `-o=json` is `-o json`, and `--watch=false` is nothing; click
        would take the sign for a part of the value, and knows no value of a switch.
        """
        short = {
            name
            for each in self.params
            if isinstance(each, click.Option) and not (each.is_flag or each.count)
            for name in each.opts
            if len(name) == len("-o")
        }
        end = args.index("--") if "--" in args else len(args)
        words: list[str] = []
        for word in self._plain_switches(args[:end]):
            is_assigned = word[:2] in short and word[2:3] == "="
            words += [word[:2], word[3:]] if is_assigned else [word]
        ctx.meta[WORDS] = words
        return super().parse_args(ctx, [*words, *args[end:]])

    def _plain_switches(self, words: list[str]) -> Iterator[str]:
        """The words, with `--watch=true` as `--watch`. Raises `SettingError` for what is neither
        true nor false.
        """
        switches = {
            name: each
            for each in self.params
            if isinstance(each, click.Option) and each.is_flag
            for name in (*each.opts, *each.secondary_opts)
        }
        for word in words:
            name, sign, text = word.partition("=")
            option = switches.get(name)
            if not sign or option is None:
                yield word
            elif text not in TRUTH_VALUES:
                raise SettingError(name, f"{text!r} is neither true nor false")
            elif TRUTH_VALUES[text]:
                yield name
            elif option.secondary_opts:
                others = option.opts if name in option.secondary_opts else option.secondary_opts
                yield others[0]

    def _typed(self, flag: str, context: click.Context) -> str:
        """A flag as it stands on the command line; as it is where it does not."""
        option = next((each for each in self.params if flag in each.opts), None)
        words: list[str] = context.meta.get(WORDS, [])
        for spelling in option.opts if option else ():
            is_short = not spelling.startswith("--")
            for word in words:
                has_value = word.startswith(f"{spelling}=") or (is_short and word[:2] == spelling)
                if word == spelling or has_value:
                    return spelling
        return flag

    def _parameters(self, tables: dict[str, Flags]) -> Iterator[click.Parameter]:
        for name, each in inspect.signature(self._function).parameters.items():
            if name in tables:
                group = "" if name in OWN else name
                settings = Settings(each.annotation, tables[name], group)
                self._settings[name] = settings
                yield from settings.options()
            elif each.annotation is click.Context:
                self._context_name = name
            else:
                yield parameter(name, each.annotation, each.default)

    def _call(self, **values: Any) -> Any:  # noqa: ANN401
        context = click.get_current_context()
        try:
            built = {name: each.build(values) for name, each in self._settings.items()}
            if self._context_name:
                built[self._context_name] = context
            # From here on there may be something to tidy up.
            interrupt.disarm()
            return self._function(**values, **built)
        except SettingError as error:
            raise type(error)(self._typed(error.flag, context), error.reason) from None
        except KeyboardInterrupt:
            # click would write a line.
            raise click.exceptions.Exit(interrupt.INTERRUPTED) from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, description, examples, and parameters by group."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        arguments = [each for each in self.params if isinstance(each, click.Argument)]
        if rows := [(each.make_metavar(ctx), each.help or "") for each in arguments]:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verb's own options first, then those of each group."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        order = {group: place for place, group in enumerate(map(group_of, options))}
        options.sort(key=lambda each: (group_of(each) != "", order[group_of(each)]))
        for group, members in groupby(options, group_of):
            rows = [row for each in members if (row := each.get_help_record(ctx))]
            with formatter.section(TITLES.get(group, group.capitalize()) or "Options"):
                formatter.write_dl(rows)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """On one line."""
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write(f"Usage: {ctx.command_path} {pieces}\n")


def version_option() -> click.Option:
    """--version, which prints and ends."""
    return click.Option(
        ["--version", "-V"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        help="Print the version and exit.",
        callback=_print_version,
    )


def _print_version(context: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        click.echo(f"kbe-nat {__version__}")
        context.exit()


class HabitCommand(VerbCommand):
    """A verb in the words of another program, some of whose flags it does not have: each is
    answered by a sentence.
    """

    refused: Mapping[str, str] = {}
    """Why, by the flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click. Raises `SettingError` for a flag that is answered so."""
        for word in args:
            name = word.partition("=")[0]
            # Short ones may stand together, as in -LZ.
            short = [f"-{letter}" for letter in word[1:]] if _is_short(word) else []
            for flag in (name, *short):
                if flag in self.refused:
                    raise SettingError(flag, self.refused[flag])
                if short and self._takes_value(flag):
                    break
        return super().parse_args(ctx, args)

    def _takes_value(self, flag: str) -> bool:
        """Whether the letters behind it are its value."""
        return any(
            flag in each.opts and not each.is_flag
            for each in self.params
            if isinstance(each, click.Option)
        )


def _is_short(word: str) -> bool:
    return word.startswith("-") and not word.startswith("--")


class VerbGroup(click.Group):
    """Verbs that belong together; alone it prints its help."""

    context_class = Context

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, help=about, invoke_without_command=True, context_settings=CONTEXT)

    def verb(
        self, name: str = "", kind: type[VerbCommand] = VerbCommand, **tables: Flags
    ) -> Callable[[Callable[..., Any]], VerbCommand]:
        """As `verb`, for a verb of this group."""

        def decorate(function: Callable[..., Any]) -> VerbCommand:
            command = verb(name, kind, **tables)(function)
            self.add_command(command)
            return command

        return decorate

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        """The verb's result. Without a verb the help is printed."""
        # click joins them where it looks for the verb, too.
        if not [*ctx._protected_args, *ctx.args]:
            click.echo(ctx.get_help())
            return 0
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each verb with the first sentence of its help."""
        rows = [(name, sentence(command.help or "")) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the source."""
        return list(self.commands)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """On one line."""
        formatter.write(f"Usage: {ctx.command_path} COMMAND [OPTIONS]\n")


def verb(
    name: str = "", kind: type[VerbCommand] = VerbCommand, **tables: Flags
) -> Callable[[Callable[..., Any]], VerbCommand]:
    """Makes a verb of a function. In place of its parameters of the tables' names it has one flag
    for each field of the settings that they are annotated with.
    """
    return lambda function: kind(name or function.__name__.replace("_", "-"), function, tables)


def sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    first = re.split(r"(?<=[.;:]) ", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return first.rstrip(".;:")


def _parts(docstring: str) -> tuple[str, list[str]]:
    """The description, and the lines of examples."""
    about, _, examples = inspect.cleandoc(docstring).partition("\nExamples:\n")
    return about.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


def group_of(option: click.Option) -> str:
    """The group of settings that an option belongs to; empty where it is the verb's own."""
    return option.group if isinstance(option, Option) else ""


TRUTH_VALUES: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
"""As Go reads them, and so kubectl."""
WORDS: Final = "kbe_nat.words"
"""Of the command line, in the context."""
CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
OWN: Final = ("document",)
"""Tables whose flags stand among a verb's own in the help."""
TITLES: Final = {
    "": "Options",
    "choice": "Balancing",
    "flows": "Connections",
    "live": "Running daemon",
    "node": "Node, as kube-proxy",
    "source": "Objects",
}
"""Groups whose title is another word than their name in the settings."""
