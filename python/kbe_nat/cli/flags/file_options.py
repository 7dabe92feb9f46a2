"""Options of kbe-nat's own in a configuration file, made of a table of flags: see
`kbe_nat.cli.flags.own_options`.
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.parameters import Flags, TextFlag, flag_name
from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.bind_address import NOWHERE
from kbe_nat.kubeproxy.flags import FLAGS
from kbe_nat.model import join_address
from kbe_nat.sources.manifests.documents import reason_and_path

KEY: Final = "kbeNat"


@dataclass(frozen=True, slots=True)
class OwnOption:
    """A setting with its flag and its key."""

    path: tuple[str, str]
    """The names of the part of `Settings` and of its field."""
    flag: str
    """Without dashes."""
    option: Flag
    text_flag: TextFlag | None
    type: Any
    default: Any

    @property
    def key(self) -> str:
        """Its name in a file."""
        return camel_case(self.flag)

    @property
    def written_type(self) -> Any:  # noqa: ANN401
        """Its type in a file."""
        if self.text_flag is not None and self.text_flag.written is not None:
            return self.text_flag.written
        return _written_type(self.type)

    def parse(self, value: Any) -> Any:  # noqa: ANN401
        """The setting, of a value of `written_type`. Raises ValueError."""
        if self.text_flag is not None:
            if self.text_flag.type == list[str]:
                return self.text_flag.parse(value)
            items = value if isinstance(value, list) else [value]
            return self.text_flag.parse(",".join(map(str, items)))
        low, high = self.option.min, self.option.max
        if low is not None and value < low:
            raise ValueError(f"{value} is less than {low:g}")
        if high is not None and value > high:
            raise ValueError(f"{value} is more than {high:g}")
        return msgspec.convert(value, self.type, dec_hook=lambda kind, text: kind(text))

    def write(self, value: Any) -> Any:  # noqa: ANN401
        """The value in a file that says this setting."""
        if value is None:
            # Only `auto` stands for no choice.
            return "auto" if "auto" in get_args(self.written_type) else None
        if self.flag in SWITCHES:
            return join_address(*value) if value != NOWHERE else ""
        if isinstance(value, Enum | Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value


def table_options(part: str, kind: Any, flags: Flags) -> Iterator[OwnOption]:  # noqa: ANN401
    """The options of a table, which fills in this part of the settings."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        flag = flags[field.name]
        if flag is None or isinstance(flag, Mapping):
            continue
        option = flag.option if isinstance(flag, TextFlag) else flag
        name = flag_name(field.name, option).removeprefix("--")
        if name in SWITCHES or (name not in FLAGS and name not in ALIASES):
            text_flag = flag if isinstance(flag, TextFlag) else None
            path = (part, field.name)
            yield OwnOption(path, name, option, text_flag, hints[field.name], field.default)


def read_options(
    options: Iterable[OwnOption], values: Mapping[str, Any], path: Path
) -> dict[OwnOption, Any]:
    """The settings that these values of `kbeNat` in a file say. Raises `FileError`, with the
    field.
    """
    by_key = {option.key: option for option in options}
    # YAML reads the bare word as a truth value.
    values = {
        key: OFF if value is False and OFF in _words(by_key[key].type) else value
        for key, value in values.items()
    }
    try:
        msgspec.convert(values, options_type(by_key.values()))
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {KEY}.{field}: {reason}") from None
    settings = {}
    for key, value in values.items():
        try:
            settings[by_key[key]] = by_key[key].parse(value)
        except ValueError as error:
            raise FileError(f"{path}: {KEY}.{key}: {error}") from None
    return settings


def options_type(options: Iterable[OwnOption]) -> type[msgspec.Struct]:
    """The type of `kbeNat` in a file, with these options."""
    return msgspec.defstruct(
        "KbeNat",
        [
            (
                option.key,
                Annotated[
                    option.written_type | None,
                    msgspec.Meta(
                        description=" ".join((option.option.help or "").split()),
                        extra_json_schema=_limits(option.option),
                    ),
                ],
                _default(option.write(option.default)),
            )
            for option in options
        ],
        forbid_unknown_fields=True,
    )


def camel_case(flag: str) -> str:
    """A flag's name as a field's."""
    return re.sub(r"-(\w)", lambda match: match[1].upper(), flag)


def _written_type(kind: Any) -> Any:  # noqa: ANN401
    """A type of settings as a file has it: paths are texts, tuples lists."""
    if kind is Path:
        return str
    if get_origin(kind) in (Union, types.UnionType):
        kinds = tuple(_written_type(each) for each in get_args(kind))
        return Union[kinds]  # noqa: UP007
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return kind


def _words(kind: Any) -> list[str]:  # noqa: ANN401
    """The values of an enumeration."""
    is_words = isinstance(kind, type) and issubclass(kind, Enum)
    return [str(each) for each in kind] if is_words else []


def _default(value: Any) -> Any:  # noqa: ANN401
    return msgspec.field(default_factory=lambda: list(value)) if isinstance(value, list) else value


def _limits(option: Flag) -> dict[str, Any]:
    limits = {"minimum": option.min, "maximum": option.max}
    return {name: limit for name, limit in limits.items() if limit is not None}


ALIASES: Final = {
    "mode": "proxy-mode",
    "node": "hostname-override",
    "localhost-nodeports": "iptables-localhost-nodeports",
    "log-format": "logging-format",
    "verbose": "v",
}
"""Flags of ours that say what a flag of kube-proxy says, by another name."""
OFF: Final = "off"
SWITCHES: Final = frozenset({"healthz-bind-address", "metrics-bind-address"})
"""Flags of kube-proxy that switch a server off when they are empty, which no field of its file can:
an empty address stands for the default there.
"""
