"""Write python/kbe_nat/cli_words.json: the verbs and their flags, as shells complete them.

`--check` writes nothing, and ends with 1 if the file is not up to date.
"""

import json
import sys
from typing import Any

import click
from written import write

from kbe_nat.cli import GROUPS, app
from kbe_nat.cli.flags.values import File
from kbe_nat.cli.kinds import ALIASES, NAMED_BY, Resources
from kbe_nat.cli.verb import sentence
from kbe_nat.cli_words import OUTLINE


def outline(command: click.Command, help_text: str) -> dict[str, Any]:
    """A command, as JSON has it."""
    context = click.Context(command)
    inner = command.commands if isinstance(command, click.Group) else {}
    if command is app:
        inner = {name: app.commands[name] for verbs in GROUPS.values() for name in verbs}
    lines = {name: line for verbs in GROUPS.values() for name, line in verbs.items()}
    return {
        "help": help_text,
        "options": [
            option(each) for each in command.get_params(context) if isinstance(each, click.Option)
        ],
        "arguments": [
            {
                **values(each.type),
                "is_repeated": each.nargs < 0 and not is_kind(each),
                "is_kind": isinstance(each.type, Resources) and each.type.has_names,
            }
            for each in command.params
            if isinstance(each, click.Argument)
        ],
        "commands": {
            name: outline(each, lines[name] if command is app else sentence(each.help or ""))
            for name, each in inner.items()
        },
        **({"kinds": kinds()} if command is app else {}),
    }


def kinds() -> dict[str, str]:
    """For each word that names a kind the kind of names that things of it have."""
    return {
        word: NAMED_BY[kind]
        for kind, aliases in ALIASES.items()
        if kind in NAMED_BY
        for word in (kind, *aliases)
    }


def option(option: click.Option) -> dict[str, Any]:
    """A flag."""
    takes_value = not (option.is_flag or option.count)
    return {
        "names": [
            *sorted(option.opts, key=lambda name: not name.startswith("--")),
            *option.secondary_opts,
        ],
        "help": sentence(option.help or ""),
        "takes_value": takes_value,
        **(values(option.type) if takes_value else {}),
        **({"words": list(words)} if (words := getattr(option, "words", ())) else {}),
        **({"is_file": True} if getattr(option, "placeholder", "") in ("FILE", "DIR") else {}),
        **({"names_of": names} if (names := getattr(option, "names_of", "")) else {}),
        **source(option),
    }


def source(option: click.Option) -> dict[str, Any]:
    """Where the daemon is asked for names, which is the same on every machine."""
    if "--socket" not in option.opts:
        return {}
    return {"default": str(option.default), "variable": option.envvar}


def values(kind: click.ParamType[Any]) -> dict[str, Any]:
    """What may stand for a value."""
    if isinstance(kind, File):
        return {"is_file": True}
    words = kind.choices if isinstance(kind, click.Choice) else getattr(kind, "kinds", ())
    names = getattr(kind, "names_of", "")
    return {**({"words": list(words)} if words else {}), **({"names_of": names} if names else {})}


def is_kind(argument: click.Argument) -> bool:
    """Whether only its first word is a kind, and the others are names."""
    return isinstance(argument.type, Resources)


if __name__ == "__main__":
    sys.exit(write(OUTLINE, json.dumps(outline(app, ""), indent=1) + "\n", __doc__))
