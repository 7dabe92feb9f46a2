"""A verb's flags from tables: one flag for each field of a frozen dataclass of settings.

typer reads a command's flags from the signature of its function. Settings have their fields, types
and defaults in a dataclass, so a table beside it says only how each field is given; `takes_flags`
joins the two into the signature, and hands the verb the settings. A field may hold settings again.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import wraps
from keyword import iskeyword
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from typer.models import OptionInfo

from kbe_nat.errors import SettingError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TextFlag:
    """A flag whose text is parsed into the value of its field."""

    option: OptionInfo
    parse: Callable[[Any], object]
    """Raises ValueError."""
    type: Any = str | None
    """typer's argument to `parse`: a text, or list[str] of a flag that may be repeated."""
    written: Any = None
    """Its type in a configuration file; None: that of the field."""


Flags: TypeAlias = Mapping[str, "OptionInfo | TextFlag | Flags | None"]
"""How each field is given, by its name; None for a field that has no flag."""


class _Settings:
    """A dataclass with its table."""

    def __init__(self, kind: type, flags: Flags) -> None:
        # A field without a row would be a setting that nothing can set.
        names = {field.name for field in fields(kind)}
        assert names == flags.keys(), f"{kind.__name__}: {names ^ flags.keys()}"
        self._kind = kind
        self._flags = flags
        self._inner = {
            field.name: _Settings(cast("type", field.type), flag)
            for field, flag in self._rows()
            if isinstance(flag, Mapping)
        }

    def parameters(self) -> Iterator[inspect.Parameter]:
        """The parameters that typer reads."""
        for field, flag in self._rows():
            if isinstance(flag, Mapping):
                yield from self._inner[field.name].parameters()
            elif isinstance(flag, TextFlag):
                default: object = [] if flag.type == list[str] else None
                yield _parameter(field, flag.option, flag.type, default)
            elif flag is not None:
                yield _parameter(field, flag, field.type, field.default)

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

    def _rows(self) -> "Iterator[tuple[Field[Any], OptionInfo | TextFlag | Flags | None]]":
        assert is_dataclass(self._kind)
        return ((field, self._flags[field.name]) for field in fields(self._kind))


def takes_flags(**tables: Flags) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Gives a verb, in place of its parameters of these names, one flag for each field of the
    settings that they are annotated with.
    """

    def decorate(verb: Callable[..., _T]) -> Callable[..., _T]:
        signature = inspect.signature(verb)
        settings = {
            name: _Settings(signature.parameters[name].annotation, table)
            for name, table in tables.items()
        }

        @wraps(verb)
        def with_flags(**values: Any) -> _T:  # noqa: ANN401
            built = {name: each.build(values) for name, each in settings.items()}
            return verb(**built, **values)

        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            if name in settings:
                parameters += settings[name].parameters()
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        expanded = signature.replace(parameters=parameters)
        with_flags.__signature__ = expanded  # type: ignore[attr-defined]
        with_flags.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_flags

    return decorate


def parameter_names(flags: Flags) -> Iterator[str]:
    """The names of the parameters that a table makes."""
    for name, flag in flags.items():
        if isinstance(flag, Mapping):
            yield from parameter_names(flag)
        elif flag is not None:
            yield parameter_name(name, flag.option if isinstance(flag, TextFlag) else flag)


def parameter_name(field_name: str, option: OptionInfo) -> str:
    """That of the flag, since fields of several settings may have one name."""
    name = flag_name(field_name, option).removeprefix("--").replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


def _parameter(
    field: "Field[Any]", option: OptionInfo, kind: object, default: object
) -> inspect.Parameter:
    return inspect.Parameter(
        parameter_name(field.name, option),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


def flag_name(field_name: str, option: OptionInfo) -> str:
    """The first spelling of a flag. Of one that stands in an annotation, typer takes the first
    argument for a spelling too, though it is called `default`.
    """
    arguments = (option.default, *(option.param_decls or ()))
    spelling = next((text for text in arguments if isinstance(text, str)), "")
    return spelling.partition("/")[0] or f"--{field_name.replace('_', '-')}"


def _parse(flag: TextFlag, field_name: str, text: object) -> object:
    try:
        return flag.parse(text)
    except ValueError as error:
        raise SettingError(flag_name(field_name, flag.option), str(error)) from None
