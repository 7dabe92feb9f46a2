"""A verb's parameters: from its signature, and from tables of flags.

A parameter of a verb's function is annotated with a `Flag` or an `Argument`. Settings have their
fields, types and defaults in a dataclass, so a table beside it says only how each field is given: a
parameter that has a table becomes one flag for each field, and the verb gets the settings. A field
may hold settings again.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, get_args, get_origin

import click

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.values import Seconds, value_type, without_none
from kbe_nat.errors import SettingError


@dataclass(frozen=True, slots=True)
class TextFlag:
    """A flag whose text is parsed into the value of its field."""

    option: Flag
    parse: Callable[[Any], object]
    """Raises ValueError."""
    type: Any = str | None
    """The argument to `parse`: a text, or list[str] of a flag that may be repeated."""
    written: Any = None
    """Its type in a configuration file; None: that of the field."""


Flags: TypeAlias = Mapping[str, "Flag | TextFlag | Flags | None"]
"""How each field is given, by its name; None for a field that has no flag."""


class Option(click.Option):
    """A flag as click knows it."""

    group: str = ""
    """The title above it in the help; empty: that of the verb's own."""
    placeholder: str = ""
    """What stands for its value in the help."""
    words: tuple[str, ...] = ()
    """That a shell offers for its value, where its type has none."""
    names_of: str = ""
    """The kind of names that it offers."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The spelling with FILE, SECONDS or the words that may stand there, and the help."""
        if self.hidden:
            return None
        names = ", ".join(sorted(self.opts, key=len))
        if self.secondary_opts:
            names += f" / {', '.join(self.secondary_opts)}"
        value = "" if self.is_flag or self.count else f" {self.placeholder}"
        texts = (self.help, _choices_text(self), "" if self.count else _default_text(self))
        return f"{names}{value}", " ".join(filter(None, texts))


class Settings:
    """A dataclass with its table."""

    def __init__(self, kind: type, flags: Flags, group: str) -> None:
        # A field without a row would be a setting that nothing can set.
        names = {field.name for field in fields(kind)}
        assert names == flags.keys(), f"{kind.__name__}: {names ^ flags.keys()}"
        self._kind = kind
        self._flags = flags
        self._group = group
        self._inner = {
            field.name: Settings(cast("type", field.type), flag, field.name)
            for field, flag in self._rows()
            if isinstance(flag, Mapping)
        }

    def options(self) -> Iterator[Option]:
        """The options that click reads."""
        for field, flag in self._rows():
            if isinstance(flag, Mapping):
                yield from self._inner[field.name].options()
            elif isinstance(flag, TextFlag):
                name = parameter_name(field.name, flag.option)
                yield option(name, flag.option, flag.type, None, self._group)
            elif flag is not None:
                name = parameter_name(field.name, flag)
                yield option(name, flag, field.type, field.default, self._group)

    def build(self, values: dict[str, Any]) -> Any:  # noqa: ANN401
        """The settings, of values by the names of parameters. Raises `SettingError`."""
        arguments: dict[str, object] = {}
        for field, flag in self._rows():
            if isinstance(flag, Mapping):
                arguments[field.name] = self._inner[field.name].build(values)
            elif isinstance(flag, TextFlag):
                text = values.pop(parameter_name(field.name, flag.option))
                # Without the flag the default of the field counts.
                if text is not None and text != []:
                    arguments[field.name] = _parse(flag, field.name, text)
            elif flag is not None:
                arguments[field.name] = values.pop(parameter_name(field.name, flag))
        return self._kind(**arguments)

    def _rows(self) -> "Iterator[tuple[Field[Any], Flag | TextFlag | Flags | None]]":
        assert is_dataclass(self._kind)
        return ((field, self._flags[field.name]) for field in fields(self._kind))


def parameter(name: str, annotation: Any, default: object) -> click.Parameter:  # noqa: ANN401
    """A parameter of a verb's function, as click reads it."""
    kind, note = get_args(annotation)
    if isinstance(note, Flag):
        return option(name, note, kind, default)
    return _argument(name, note, kind, default)


def option(
    name: str,
    flag: Flag,
    kind: Any,  # noqa: ANN401
    default: object,
    group: str = "",
) -> Option:
    """A flag, as click reads it. `default` is `Parameter.empty` for one that must be given."""
    spellings = flag.names or (f"--{name.replace('_', '-')}",)
    inner = without_none(kind)
    is_list = get_origin(inner) is list
    is_truth = inner is bool
    attributes: dict[str, Any] = {"help": flag.help, "envvar": flag.envvar}
    if default is inspect.Parameter.empty:
        attributes["required"] = True
    elif not is_list:
        attributes["default"] = default
    if is_truth:
        attributes |= {"is_flag": True, "type": bool}
    elif flag.is_counted:
        attributes["count"] = True
    elif flag.is_duration:
        attributes["type"] = Seconds(flag.min)
    else:
        item = get_args(inner)[0] if is_list else inner
        attributes |= {"type": value_type(item, flag.min, flag.max), "multiple": is_list}
    if is_list:
        attributes["callback"] = _as_list
    result = Option([*spellings, name], **attributes)
    result.group = group
    result.words = flag.words
    result.names_of = flag.names_of
    if not is_truth and not flag.is_counted:
        result.placeholder = flag.metavar or _placeholder(result.type, spellings[0])
    return result


def _argument(
    name: str,
    note: Argument,
    kind: Any,  # noqa: ANN401
    default: object,
) -> click.Argument:
    inner = without_none(kind)
    is_list = get_origin(inner) is list
    item = get_args(inner)[0] if is_list else inner
    word = note.metavar or name.upper()
    # A word of several parts says itself which of them may be repeated.
    word = f"{word}..." if is_list and " " not in word else word
    is_optional = default is not inspect.Parameter.empty
    attributes: dict[str, Any] = {
        "type": note.type or value_type(item),
        "metavar": f"[{word}]" if is_optional else word,
        "help": note.help,
    }
    if is_optional:
        attributes |= {"required": False, "default": default}
    elif is_list:
        attributes["required"] = True
    if is_list:
        attributes |= {"nargs": -1, "callback": _as_list}
    return click.Argument([name], **attributes)


def _as_list(context: object, parameter: object, value: Any) -> list[Any]:  # noqa: ANN401
    return list(value or ())


def _placeholder(kind: click.ParamType[Any], spelling: str) -> str:
    """FILE, NUMBER, the words that there are, or the last word of the flag's name."""
    if isinstance(kind, click.Choice) and len("|".join(kind.choices)) <= SHORT:
        return "|".join(kind.choices)
    if isinstance(kind, click.Choice) or kind is click.STRING:
        return spelling.rpartition("-")[2].upper()
    return kind.name.upper()


def _choices_text(option: Option) -> str:
    """The words that there are, where the placeholder does not list them."""
    if not isinstance(option.type, click.Choice) or "|" in option.placeholder:
        return ""
    return f"One of {', '.join(option.type.choices)}."


def _default_text(option: Option) -> str:
    """The default, where it says anything that the help does not."""
    value = option.default
    if not isinstance(value, str | int | float | Path) or value == "" or not option.help:
        return ""
    if option.is_flag:
        if not option.secondary_opts:
            return ""
        spelling = (option.opts if value else option.secondary_opts)[0]
        return f"Default: {spelling}."
    if isinstance(option.type, Seconds):
        return f"Default: {value:g}s."
    return f"Default: {value}."


def parameter_names(flags: Flags) -> Iterator[str]:
    """The names of the parameters that a table makes."""
    for name, flag in flags.items():
        if isinstance(flag, Mapping):
            yield from parameter_names(flag)
        elif flag is not None:
            yield parameter_name(name, flag.option if isinstance(flag, TextFlag) else flag)


def parameter_name(field_name: str, flag: Flag) -> str:
    """That of the flag, since fields of several settings may have one name."""
    name = flag_name(field_name, flag).removeprefix("--").replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


def flag_name(field_name: str, flag: Flag) -> str:
    """The first spelling of a flag."""
    spelling = next(iter(flag.names), f"--{field_name.replace('_', '-')}")
    return spelling.partition("/")[0]


def _parse(flag: TextFlag, field_name: str, text: object) -> object:
    try:
        return flag.parse(text)
    except ValueError as error:
        raise SettingError(flag_name(field_name, flag.option), str(error)) from None


SHORT: Final = 32
"""So many letters of words that there are stand beside a flag; more stand in its help."""
