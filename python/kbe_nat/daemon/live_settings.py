"""The settings in force, which follow the configuration file while the daemon runs.

Theory of operation. Now and then the file's stamp is compared with the one it had. A file that is
still being written does not count, nor does one that is gone for a moment while an editor or
Kubernetes (a ConfigMap's `..data`) puts another in its place. Then the command line and the file
are joined anew, as at the start, and compared with what is in force, setting by setting:

- Live ones (see `live_fields`) change without loss: they decide about connections to come, or
  belong to a part that can follow them. They are put in force and logged.
- All others belong to parts that exist once, such as queues and tables. The log names them with
  the reason: they need a restart.

A file that is wrong leaves everything in force, and so does one that contradicts the node.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from kbe_nat.control.controller import Controller
from kbe_nat.daemon.conntrack import conntrack_settings
from kbe_nat.daemon.live_fields import LIVE, is_inapplicable, is_live, restart_reason
from kbe_nat.daemon.logs import log_to_stderr
from kbe_nat.daemon.settings import Settings
from kbe_nat.errors import KbeNatError, RulesError
from kbe_nat.kubeproxy.config import Configuration, ModeConfig, without_nulls
from kbe_nat.kubeproxy.effective import as_document
from kbe_nat.sources.manifests.writing import GONE, Unsettled, stamp


@dataclass(frozen=True)
class ConfigurationFile:
    """The file that the settings come from."""

    path: Path
    read: Callable[[], tuple[Settings, Sequence[str]]]
    """Joins it with the command line: the settings, and notes. Raises `KbeNatError`."""
    names: Mapping[tuple[str, str], str]
    """Our own options by part and field of `Settings`, as the file names them."""


class LiveSettings:
    """The settings in force."""

    def __init__(
        self,
        settings: Settings,
        file: ConfigurationFile | None = None,
        *,
        has_api_server: bool = False,
    ) -> None:
        """With an API server some fields cannot change that could with files alone."""
        self.settings = settings
        self.followers: list[Callable[[Settings], None]] = []
        """Parts that take over what has changed, of all that is in force; they raise nothing."""
        self._has_api_server = has_api_server
        self._file = file
        self._unsettled = Unsettled(GONE_SECONDS)
        self._mistake: KbeNatError | None = None
        """Why the file as it was last read does not count."""
        self._stamp = stamp(str(file.path)) if file else GONE

    def follow(self, controller: Controller) -> None:
        """Put in force what has changed in the file. Raises `KbeNatError` for a file that is
        wrong. Cost: one system call while nothing changes.
        """
        if self._file is None:
            return
        present = stamp(str(self._file.path))
        if present == self._stamp:
            self._mistake = None
            return
        if not self._unsettled.counts(
            str(self._file.path), self._stamp, present, time.monotonic(), is_closed=False
        ):
            # A wrong file that is about to be replaced has not become right by that.
            if self._mistake is not None:
                raise self._mistake.with_traceback(None)
            return
        try:
            wanted, notes = self._file.read()
            self._take(wanted, notes, controller)
        except KbeNatError as error:
            self._mistake = error
            raise
        # Only now: one that is wrong is tried again, so that its mistake stands until it is right.
        self._stamp, self._mistake = present, None

    def _take(self, wanted: Settings, notes: Sequence[str], controller: Controller) -> None:
        names = self._file.names if self._file else {}
        if not any(_differences(self.settings, wanted, names)):
            return
        for note in notes:
            LOG.warning("%s", note)
        before, self.settings = self.settings, self._with_live_parts(wanted)
        try:
            controller.replan()
        except RulesError as error:
            # The plan is made, and `Controller.repair` brings the kernel up to it.
            LOG.error("rules are not up to date: %s", error)
        except KbeNatError:
            self.settings = before
            raise
        settings = self.settings
        if settings.logs != before.logs:
            log_to_stderr(settings.logs.form, settings.logs.verbosity)
        tracking = conntrack_settings(settings.configuration)
        if tracking != conntrack_settings(before.configuration):
            set_conntrack(controller, settings)
        controller.end_removed_after(settings.balancing.drain_removed)
        if changes := ", ".join(_differences(before, settings, names)):
            LOG.info("the configuration has changed, and is in force: %s", changes)
        # A default may follow from a field that stays.
        others = [path for path in _differences(settings, wanted, names) if not self._is_live(path)]
        if others:
            LOG.warning(
                "the configuration has changed, restart needed for: %s", _with_reasons(others)
            )
        for take_over in self.followers:
            take_over(settings)

    def _with_live_parts(self, wanted: Settings) -> Settings:
        """The settings with those of `wanted` that can change now."""
        settings = self.settings
        values, others = (msgspec.to_builtins(each.configuration) for each in (settings, wanted))
        for path in LIVE:
            *sections, name = path.split(".")
            if sections != [OWN] and self._is_live(path):
                section, other = values, others
                for each in sections:
                    section, other = section[each], other[each]
                section[name] = other[name]
        configuration = msgspec.convert(without_nulls(values), Configuration)
        settings = replace(settings, configuration=configuration, logs=wanted.logs)
        for (part, name), path in (self._file.names if self._file else {}).items():
            if self._is_live(path):
                value = getattr(getattr(wanted, part), name)
                changed = replace(getattr(settings, part), **{name: value})
                settings = replace(settings, **{part: changed})
        return settings

    def _is_live(self, path: str) -> bool:
        return is_live(path, has_api_server=self._has_api_server)


def set_conntrack(controller: Controller, settings: Settings) -> None:
    """Let connections be tracked as the configuration says; a warning names what the kernel has
    refused.
    """
    if refused := controller.set_conntrack(conntrack_settings(settings.configuration)):
        LOG.warning("the kernel tracks connections as before: %s", ", ".join(refused))


def _differences(
    before: Settings, after: Settings, names: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """The names of settings that differ."""
    old, new = (_effective(each.configuration) for each in (before, after))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path) and not is_inapplicable(path):
            yield path
    for (part, name), key in names.items():
        if getattr(getattr(before, part), name) != getattr(getattr(after, part), name):
            yield key


def _effective(configuration: Configuration) -> dict[str, Any]:
    """The values in force, by path."""
    values = dict(_leaves(as_document(configuration)))
    for name in ("iptables", "nftables"):
        # Each mode's section has the default alone while its mode is followed.
        section: ModeConfig = getattr(configuration, name)
        values[f"{name}.syncPeriod"] = section.sync_period
        values[f"{name}.minSyncPeriod"] = section.min_sync_period
    return values


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{path}.{name}" if path else name)


def _with_reasons(paths: Iterable[str]) -> str:
    """The fields that need a restart, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for path in paths:
        by_reason.setdefault(restart_reason(path), []).append(path)
    return "; ".join(f"{', '.join(each)} ({reason})" for reason, each in by_reason.items())


LOG: Final = logging.getLogger("kbe_nat.daemon")
GONE_SECONDS: Final = 2.0
"""For so long a file may be away."""
OWN: Final = "kbeNat"
"""The section of our own options, which are parts of `Settings`."""
