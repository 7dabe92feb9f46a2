"""The command line of `kbe-nat proxy`, joined with the configuration file.

Theory of operation. kube-proxy's flags never reach click: `ProxyCommand` takes them out first, in
Go's syntax, and keeps their texts, while click reads our own flags into `Settings`. A `CommandLine`
has both. `settings` joins them with the file, as often as it is asked to, since the file may change
while the daemon runs:

1. Without `--config`, kube-proxy's flags say what a file would say.
2. With it, the file says everything that kube-proxy has an option for, but for the few flags that
   kube-proxy follows beside a file; the others are named in a warning.
3. Our own flags go before the key `kbeNat` of the file, and that before the defaults.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from kbe_nat.cli.flags.file_options import ALIASES, KEY, SWITCHES
from kbe_nat.cli.flags.node import NodeCommand
from kbe_nat.cli.flags.own_options import (
    own_options,
    read_own_options,
    with_own_options,
    write_own_options,
)
from kbe_nat.cli.flags.parameters import Flags, Option
from kbe_nat.cli.verb import TRUTH_VALUES, group_of
from kbe_nat.daemon.live_settings import ConfigurationFile
from kbe_nat.daemon.logs import LogFormat
from kbe_nat.daemon.node_pages import flag_text
from kbe_nat.daemon.settings import LogSettings, Settings
from kbe_nat.errors import FileError, SettingError
from kbe_nat.kubeproxy.bind_address import NOWHERE
from kbe_nat.kubeproxy.config import (
    NO_IPVS_MODE,
    Configuration,
    read_configuration,
    without_nulls,
)
from kbe_nat.kubeproxy.effective import as_document
from kbe_nat.kubeproxy.flags import BESIDE_FILE, FLAGS, Texts, document, flag_of, split_arguments
from kbe_nat.kubeproxy.inapplicable import inapplicable, reason_against
from kbe_nat.kubeproxy.validation import violations
from kbe_nat.kubeproxy.yaml_text import yaml_text


@dataclass(frozen=True)
class CommandLine:
    """The command line, as it was written."""

    typed: Settings
    """By our own flags, and the path of the file."""
    flags: frozenset[str]
    """The own flags that were written, without dashes."""
    kube_proxy: Texts
    """kube-proxy's flags."""

    def settings(self) -> tuple[Settings, tuple[str, ...]]:
        """The settings in force, and notes for the log. Raises `FileError` and `SettingError`."""
        path = self.typed.node.config
        configuration, notes = self._configuration(path)
        settings = replace(
            self._with_switches(path),
            configuration=configuration,
            logs=LogSettings(
                LogFormat(configuration.logging.format or "text"), configuration.logging.verbosity
            ),
        )
        if path is not None and configuration.kbe_nat:
            values = read_own_options(configuration.kbe_nat, path)
            values = {flag: value for flag, value in values.items() if flag not in self.flags}
            try:
                settings = with_own_options(settings, values)
            except SettingError as error:
                raise FileError(f"{path}: {KEY}: {error.flag}: {error.reason}") from None
        return settings, tuple(notes)

    def _with_switches(self, path: Path | None) -> Settings:
        """Without the servers that flags switch off."""
        empty = {
            flag
            for flag in SWITCHES & self.kube_proxy.keys()
            if path is None and not self.kube_proxy[flag][-1]
        }
        return with_own_options(self.typed, dict.fromkeys(empty, NOWHERE))

    def _configuration(self, path: Path | None) -> tuple[Configuration, list[str]]:
        counting = [name for name in self.kube_proxy if path is None or name in BESIDE_FILE]
        notes = [
            f"--{name} is not applied: {reason}"
            for name in counting
            if (reason := reason_against(FLAGS[name]))
        ]
        if path is None:
            configuration = _valid_configuration(document(self.kube_proxy))
            if configuration.mode == "ipvs":
                configuration = msgspec.structs.replace(configuration, mode="iptables")
                notes.append(f"--proxy-mode: {NO_IPVS_MODE}")
        else:
            configuration, file_notes = read_configuration(path)
            notes += file_notes
            notes += _notes_beside_file(self.kube_proxy)
            notes += [
                f"{path}: {field} is not applied: {reason}"
                for field, reason in inapplicable(configuration)
            ]
            beside = {name: self.kube_proxy[name] for name in BESIDE_FILE & self.kube_proxy.keys()}
            values = without_nulls(msgspec.to_builtins(configuration))
            configuration = _valid_configuration(_merge(values, document(beside)))
        return configuration, notes


class ProxyCommand(NodeCommand):
    """`kbe-nat proxy`, which takes kube-proxy's flags too."""

    allow_extra_args = True
    """They are refused here, in words that say more than click's."""

    def __init__(self, name: str, function: Callable[..., Any], tables: dict[str, Flags]) -> None:
        super().__init__(name, function, tables)
        # First among the flags of objects, which it is the first to be sought with.
        groups = [group_of(each) if isinstance(each, click.Option) else "" for each in self.params]
        self.params.insert(groups.index("source"), KubeconfigFlag())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class. Raises `SettingError` for a flag that there is not."""
        options: dict[str, bool] = {}
        names: dict[str, str] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, KubeconfigFlag):
                continue
            takes_value = not any(getattr(parameter, each, False) for each in ("is_flag", "count"))
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                if spelling.startswith("--"):
                    options[spelling[2:]] = takes_value
                    names[spelling[2:]] = parameter.opts[0][2:]
        texts, others = split_arguments(list(map(_kube_proxy_name, args)), options)
        others = list(_without_empty(others))
        flags = {argument[2:].partition("=")[0] for argument in others if argument[:2] == "--"}
        ctx.meta[FLAGS_KEY] = frozenset(names[flag] for flag in flags & names.keys())
        ctx.meta[KUBE_PROXY_KEY] = texts
        remainder = super().parse_args(ctx, others)
        if ctx.args:
            raise click.UsageError(_no_place(ctx.args[0], args), ctx)
        return remainder


class KubeconfigFlag(Option):
    """kube-proxy's flag about objects, for the help alone: `ProxyCommand` reads it."""

    group = "source"
    placeholder = "FILE"

    def __init__(self) -> None:
        help_text = (
            "Access to the API server that objects come from, as kubectl and kube-proxy have it."
        )
        super().__init__(["--kubeconfig"], expose_value=False, help=help_text)


def configuration_file(line: CommandLine) -> ConfigurationFile | None:
    """The file that the daemon follows while it runs; None without one."""
    path = line.typed.node.config
    if path is None:
        return None
    names = {option.path: f"{KEY}.{option.key}" for option in own_options()}
    return ConfigurationFile(path, line.settings, names)


def command_line(context: click.Context, settings: Settings) -> CommandLine:
    """The command line that `ProxyCommand` has read."""
    texts = dict(context.meta[KUBE_PROXY_KEY])
    if settings.logs.verbosity:
        # -v without a number, once or several times.
        texts["v"] = (str(settings.logs.verbosity),)
    return CommandLine(settings, context.meta[FLAGS_KEY], texts)


def effective_text(settings: Settings) -> str:
    """The configuration file that says these settings, defaults included."""
    return yaml_text({**as_document(settings.configuration), KEY: write_own_options(settings)})


def flag_texts(settings: Settings) -> dict[str, str]:
    """Every flag, without dashes, with the value that is in force."""
    values = as_document(settings.configuration)
    options = write_own_options(settings)
    return {
        option.flag: flag_text(options[option.key])
        for option in own_options()
        if option.key in options
    } | {name: flag_text(_value_at(values, flag.path)) for name, flag in FLAGS.items() if flag.path}


def _no_place(word: str, args: Sequence[str]) -> str:
    """Why a word that belongs to no flag is refused."""
    flag = args[max(args.index(word) - 1, 0)]
    if word in TRUTH_VALUES and flag.startswith("--"):
        # So it is with kube-proxy's flags, where the word would be an argument.
        return f"The value of {flag} stands behind a sign: {flag}={word}"
    return f"{word} stands behind no flag that takes it; objects come by --manifests"


def _kube_proxy_name(argument: str) -> str:
    """An argument with kube-proxy's name of a flag that has another name here too."""
    if argument.startswith("-f"):
        return f"--manifests={argument[2:]}" if argument[2:] else "--manifests"
    name, sign, text = argument.removeprefix("--").partition("=")
    if argument == "--no-localhost-nodeports":
        return "--iptables-localhost-nodeports=false"
    if argument.startswith("--") and name in ALIASES and name != "verbose":
        return f"--{ALIASES[name]}{sign}{text}"
    return argument


def _without_empty(arguments: list[str]) -> Iterator[str]:
    """The arguments without files that kube-proxy takes for none."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            yield from (argument, *rest)
        elif argument not in FILES:
            yield argument
        elif text := next(rest):
            yield from (argument, text)


def _valid_configuration(values: dict[str, Any]) -> Configuration:
    """The configuration of flags. Raises `SettingError` for what kube-proxy would refuse."""
    configuration = msgspec.convert(values, Configuration)
    for path, reason in violations(configuration):
        raise SettingError(flag_of(path), reason)
    if configuration.hostname_override and not configuration.hostname_override.strip():
        raise SettingError(flag_of("hostnameOverride"), "an empty name is invalid")
    return configuration


def _value_at(values: Any, path: str) -> Any:  # noqa: ANN401
    """The value at a path, or None where the document leaves it out."""
    for name in path.split("."):
        values = (values or {}).get(name)
    return values


def _merge(values: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with these in their place."""
    merged = dict(values)
    for name, value in others.items():
        is_section = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if is_section else value
    return merged


def _notes_beside_file(texts: Texts) -> Iterator[str]:
    names = [f"--{name}" for name in texts if name not in BESIDE_FILE]
    if names:
        yield f"not followed beside --config, which says it: {', '.join(names)}"


FILES: Final = ("--config", "--write-config-to")
FLAGS_KEY: Final = "kbe_nat.flags"
KUBE_PROXY_KEY: Final = "kbe_nat.kube_proxy"
