"""Answers to a shell that completes words: verbs, flags and their values.

A shell calls the command at each TAB. Flags of most verbs come from settings whose modules import
the daemon or the lab, and click alone costs more than the whole answer should. So the answer comes
from `cli_words.json`, which `tools/cli_words.py` writes of the verbs, and imports neither. Names of
what is served come from the daemon, or from the files on the line (`kbe_nat.cli_names`). The forms
of answers are those that the scripts of `kbe-nat completion` expect.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple


class Word(NamedTuple):
    """A word that may stand where the cursor is."""

    value: str
    help: str = ""
    kind: str = "plain"
    """plain, or file: the shell completes the name of a file itself."""


def answer(environment: Mapping[str, str]) -> str:
    """The text that the shell's script reads, one word after the other. Empty for a request that is
    no shell's.
    """
    shell, _, task = environment[VARIABLE].partition("_")
    if task != "complete" or shell not in FORMS:
        return ""
    words = _split(environment.get("COMP_WORDS", ""))
    place = environment.get("COMP_CWORD", "")
    if shell == "fish":
        # The word at the cursor itself, which stands at the end of the line, too.
        incomplete = next(iter(_split(place)), "")
        before = words[1:-1] if incomplete and words[-1:] == [incomplete] else words[1:]
    else:
        number = int(place) if place.isdigit() else len(words)
        incomplete = words[number] if number < len(words) else ""
        before = words[1:number]
    form = FORMS[shell]
    return "".join(f"{form(word)}\n" for word in candidates(before, incomplete))


def candidates(before: list[str], incomplete: str) -> Iterator[Word]:
    """The words that may stand behind others, and begin so."""
    outline = command = json.loads(OUTLINE.read_text())
    arguments: list[str] = []
    values_by_option: list[tuple[dict[str, Any], str]] = []
    option: dict[str, Any] | None = None
    is_only_arguments = False
    for word in before:
        if option is not None:
            values_by_option.append((option, word))
            option = None
        elif word == "--" and not is_only_arguments:
            is_only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not is_only_arguments:
            name, sign, text = word.partition("=")
            option = _option(command, name)
            if sign and option:
                values_by_option.append((option, text))
                option = None
        elif word in command["commands"] and not arguments:
            command = command["commands"][word]
        else:
            arguments.append(word)
    line = _Line(outline["kinds"], command, values_by_option)
    if option is not None:
        yield from line.values(option, incomplete)
    elif incomplete.startswith("--") and "=" in incomplete:
        name, _, text = incomplete.partition("=")
        yield from line.values(_option(command, name) or {}, text)
    elif incomplete.startswith("-") and not is_only_arguments:
        for each in command["options"]:
            for name in each["names"]:
                if name.startswith(incomplete):
                    yield Word(name, each["help"])
                    break
    else:
        for name, inner in command["commands"].items():
            if name.startswith(incomplete):
                yield Word(name, inner["help"])
        expected = command["arguments"]
        if len(arguments) < len(expected):
            yield from line.values(expected[len(arguments)], incomplete)
        elif expected and expected[-1].get("is_repeated"):
            yield from line.values(expected[-1], incomplete)
        elif expected and expected[-1].get("is_kind"):
            yield from line.names(outline["kinds"].get(arguments[0], ""), incomplete)


def _option(command: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The option of this name, where it takes a value."""
    for each in command["options"]:
        if name in each["names"]:
            return each if each["takes_value"] else None
    return None


class _Line(NamedTuple):
    """What else stands on the line."""

    kinds: dict[str, str]
    """The names that belong to each word for a kind."""
    command: dict[str, Any]
    values_by_option: list[tuple[dict[str, Any], str]]
    """Options with their values."""

    def values(self, parameter: dict[str, Any], incomplete: str) -> Iterator[Word]:
        """What may stand for a value."""
        if parameter.get("is_file"):
            yield Word(incomplete, kind="file")
        for word in parameter.get("words", ()):
            if word.startswith(incomplete):
                yield Word(word)
        kind, slash, start = incomplete.partition("/")
        is_named = bool(slash) and kind in self.kinds
        if parameter.get("is_kind") and is_named:
            yield from self.names(self.kinds[kind], start, f"{kind}/")
        elif names := parameter.get("names_of"):
            if is_named and self.kinds[kind] == "services":
                yield from self.names("services", start, f"{kind}/")
            else:
                yield from self.names(names, incomplete)

    def names(self, kind: str, start: str, prefix: str = "") -> Iterator[Word]:
        """Names of a kind that begin so, with the kind ahead of them."""
        if kind:
            # Only where names are wanted: it may read files.
            from kbe_nat.cli_names import Place, names

            files = [text for option, text in self.values_by_option if "-f" in option["names"]]
            is_of_files = any(
                "-f" in option["names"] and option.get("is_file") for option in self.options
            )
            place = Place(
                self._value("--socket"),
                tuple(files) if is_of_files else (),
                "" if kind == "namespaces" else self._value("--namespace"),
            )
            yield from (Word(prefix + name) for name in names(kind, start, place))

    @property
    def options(self) -> list[dict[str, Any]]:
        """Those of the command."""
        options: list[dict[str, Any]] = self.command["options"]
        return options

    def _value(self, name: str) -> str:
        """What an option is, on the line, by its variable or by itself."""
        for option, text in self.values_by_option:
            if name in option["names"]:
                return text
        for option in self.options:
            if name in option["names"]:
                variable = option.get("variable", "")
                return os.environ.get(variable) or str(option.get("default", ""))
        return ""


def _split(text: str) -> list[str]:
    """The words of a line that may end within quotation marks."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return words


def _zsh(word: Word) -> str:
    help_text = word.help or "_"
    # Its script splits at a colon where there is a help.
    value = word.value.replace(":", "\\:") if word.help else word.value
    return f"{word.kind}\n{value}\n{help_text}"


def _fish(word: Word) -> str:
    return f"{word.kind},{word.value}\t{word.help}" if word.help else f"{word.kind},{word.value}"


OUTLINE: Final = Path(__file__).with_name("cli_words.json")
VARIABLE: Final = "_KBE_NAT_COMPLETE"
"""In the environment of a command that a shell asks for words."""
FORMS: Final = {
    "bash": lambda word: f"{word.kind},{word.value}",
    "zsh": _zsh,
    "fish": _fish,
}
"""How each shell's script reads a word."""
