"""Answers to a shell that completes words: verbs, flags and their values.

A shell calls the command at each TAB. Flags of most verbs come from settings whose modules import
the daemon or the lab, and click alone costs more than the whole answer should. So the answer comes
from `cli_words.json`, which `tools/cli_words.py` writes of the verbs, and imports neither. The
forms of answers are those that the scripts of `kbe-nat completion` expect.
"""

import json
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
    command = json.loads(OUTLINE.read_text())
    arguments: list[str] = []
    option: dict[str, Any] | None = None
    is_only_arguments = False
    for word in before:
        if option is not None:
            option = None
        elif word == "--" and not is_only_arguments:
            is_only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not is_only_arguments:
            name, sign, _ = word.partition("=")
            option = None if sign else _option(command, name)
        elif word in command["commands"] and not arguments:
            command = command["commands"][word]
        else:
            arguments.append(word)
    if option is not None:
        yield from _values(option, incomplete)
    elif incomplete.startswith("--") and "=" in incomplete:
        name, _, text = incomplete.partition("=")
        yield from _values(_option(command, name) or {}, text)
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
        if len(arguments) < len(command["arguments"]):
            yield from _values(command["arguments"][len(arguments)], incomplete)
        elif command["arguments"] and command["arguments"][-1].get("is_repeated"):
            yield from _values(command["arguments"][-1], incomplete)


def _option(command: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The option of this name, where it takes a value."""
    for each in command["options"]:
        if name in each["names"]:
            return each if each["takes_value"] else None
    return None


def _values(parameter: dict[str, Any], incomplete: str) -> Iterator[Word]:
    if parameter.get("is_file"):
        yield Word(incomplete, kind="file")
    for word in parameter.get("words", ()):
        if word.startswith(incomplete):
            yield Word(word)


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
