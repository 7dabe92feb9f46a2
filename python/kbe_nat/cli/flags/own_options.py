"""Options of kbe-nat's own in kube-proxy's configuration file, under the one key `kbeNat`.

Theory of operation. The table of flags (`kbe_nat.cli.flags.proxy`) is the only list of options.
Each flag that kube-proxy has not becomes a field with the flag's name in camel case (--max-flows:
`maxFlows`), with the type of the setting that it fills in, and its text parser checks what the
type alone does not say. So a new flag can stand in a file at once, and the JSON schema has it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from kbe_nat.cli.flags.file_options import (
    KEY,
    SWITCHES,
    OwnOption,
    options_type,
    read_options,
    table_options,
)
from kbe_nat.cli.flags.proxy import PROXY_FLAGS
from kbe_nat.daemon.settings import Settings
from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.config import unknown_name


def own_options() -> Iterator[OwnOption]:
    """Every option, in the order of the flags."""
    parts = get_type_hints(Settings)
    for part, flags in PROXY_FLAGS.items():
        if isinstance(flags, Mapping):
            yield from table_options(part, parts[part], flags)


def read_own_options(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings that the values of `kbeNat` in this file say, by flag. Raises `FileError`, with
    the field.
    """
    options = {option.key: option for option in own_options()}
    for key in values:
        if key not in options:
            raise FileError(f"{path}: {KEY}.{key}: {unknown_name(key, options, 'option')}")
    settings = read_options(options.values(), values, path)
    return {option.flag: value for option, value in settings.items()}


def with_own_options(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with these in place of theirs, by flag. Raises `SettingError` when two
    contradict each other.
    """
    parts: dict[str, dict[str, Any]] = {}
    for option in own_options():
        if option.flag in values:
            part, name = option.path
            parts.setdefault(part, {})[name] = values[option.flag]
    return replace(
        settings,
        **{part: replace(getattr(settings, part), **changes) for part, changes in parts.items()},
    )


def write_own_options(settings: Settings) -> dict[str, Any]:
    """The values of `kbeNat` that say these settings, defaults included."""
    written = {}
    for option in own_options():
        part, name = option.path
        value = getattr(getattr(settings, part), name)
        if value is not None or option.flag not in SWITCHES:
            written[option.key] = option.write(value)
    return written


def json_schema() -> dict[str, Any]:
    """The JSON schema of `kbeNat`."""
    return msgspec.json.schema(options_type(own_options()))
