"""kube-proxy's command line: every flag of kube-proxy 1.36 by its name, as Go's pflag takes it.

Theory of operation. Flags are the older way to say what a configuration file says, so each has the
path of its field, and a command line becomes the same values as a file. The syntax is pflag's:

- `--name=value` and `--name value`, but a truth value only behind `=`; without one it is true;
- words of a name may be joined by underscores;
- a flag that is repeated counts for the last time, except lists and maps, which collect;
- `-v` is short for `--v`.

Beside `--config` kube-proxy follows few flags (`BESIDE_FILE`): the file says everything else.
"""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.config import unknown_name
from kbe_nat.kubeproxy.duration import nanoseconds
from kbe_nat.kubeproxy.validation import quantity_refusal

Texts = Mapping[str, tuple[str, ...]]
"""The values of each flag as they were written, in order."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of flags."""

    parse: Callable[[str], Any]
    """From one text to a value of the file. Raises ValueError."""
    is_truth: bool = False
    """No value follows the flag as a word of its own."""
    join: Callable[[Any, Any], Any] | None = None
    """Joins the values of a repeated flag; None: the last counts."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of kube-proxy."""

    kind: Kind
    path: str = ""
    """Of its field in the file; empty where there is none."""
    no_effect: str = ""
    """Why it means nothing here, where no field says it."""


def document(texts: Texts) -> dict[str, Any]:
    """The values of a configuration file that says the same. Raises `SettingError`."""
    values: dict[str, Any] = {}
    for name, written in texts.items():
        flag = FLAGS[name]
        value: Any = None
        for text in written:
            try:
                item = flag.kind.parse(text)
            except ValueError as error:
                raise SettingError(f"--{name}", str(error)) from None
            value = item if value is None or flag.kind.join is None else flag.kind.join(value, item)
        if flag.path:
            _put(values, flag.path, value)
    _spread(values)
    return values


def split_arguments(
    arguments: Sequence[str], options: Mapping[str, bool]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The values of those flags that a file could say, or that mean nothing here, and the other
    arguments. `options` are the names of other flags, and whether a value follows each. Raises
    `SettingError` when a value is missing, or there is no such flag.
    """
    texts: dict[str, tuple[str, ...]] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return texts, [*others, argument, *rest]
        if level := _LEVEL.fullmatch(argument):
            argument = f"--v={level[2] or level[1]}"
        elif argument == "-v" and rest and rest[0].isdecimal():
            argument = "--v"
        if not argument.startswith("--"):
            others.append(argument)
            continue
        name, sign, text = argument[2:].partition("=")
        name = name.replace("_", "-")
        flag = FLAGS.get(name)
        if flag and (flag.path or (flag.no_effect and name not in options)):
            if not sign:
                text = "true" if flag.kind.is_truth else _value(name, rest)
            texts[name] = (*texts.get(name, ()), text)
            continue
        if name not in options:
            raise SettingError(f"--{name}", unknown_name(name, (*FLAGS, *options), "flag", "--"))
        if options[name]:
            others += (f"--{name}", text if sign else _value(name, rest))
        elif not sign or _truth(name, text):
            others.append(f"--{name}")
        elif f"no-{name}" in options:
            others.append(f"--no-{name}")
    return texts, others


def _truth(name: str, text: str) -> bool:
    try:
        return parse_truth(text)
    except ValueError as error:
        raise SettingError(f"--{name}", str(error)) from None


def _value(name: str, rest: list[str]) -> str:
    if not rest:
        raise SettingError(f"--{name}", "it needs a value")
    return rest.pop(0)


def flag_of(path: str) -> str:
    """The flag that says the field at this path, or one inside; the path itself where none does."""
    path = _BRACKETS.sub("", path)
    for name, flag in FLAGS.items():
        if flag.path == path:
            return f"--{name}"
    return next((f"--{name}" for name, paths in SPREAD.items() if path in paths), path)


def parse_truth(text: str) -> bool:
    """As Go's strconv reads a truth value. Raises ValueError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _integer(text: str) -> int:
    """As strconv.ParseInt with base 0: 017 and 0o17 are 15, 0xf too, 1_000 is 1000."""
    if not (_INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS):
        raise ValueError(f"{text[:MAX_DIGITS]!r} is not an integer")
    digits = text.lstrip("+-")
    # Python wants the letter in front of octal digits.
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "_01234567"
    number = int(digits, 8 if is_octal else 0) * (-1 if text[0] == "-" else 1)
    if not -(1 << 31) <= number < 1 << 31:
        raise ValueError(f"{text!r} does not fit into 32 bits")
    return number


def _level(text: str) -> int:
    """As strconv.ParseUint with base 10."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise ValueError(f"{text[:MAX_DIGITS]!r} is not a whole number from 0 on")
    if int(text) >= 1 << 31:
        raise ValueError(f"{text!r} does not fit into 31 bits")
    return int(text)


def _number(text: str) -> float:
    """Numbers that a file can have: without those that are infinite or none."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text[:MAX_DIGITS]!r} is not a number")
    return number


def _quantity(text: str) -> str:
    if refusal := quantity_refusal(text):
        raise ValueError(refusal)
    return text


def _duration(text: str) -> str:
    nanoseconds(text)
    return text


def _list(text: str) -> list[str]:
    """As Go's encoding/csv splits a line; a comma in quotation marks is part of its item."""
    if not _LINE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} has a quotation mark out of place")
    return next(csv.reader([text]), []) if text else []


def _gates(text: str) -> dict[str, bool]:
    """NAME=TRUTH, with commas between."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    for name, sign, _ in pairs:
        if not sign:
            raise ValueError(f"{name!r} has no value: NAME=true or NAME=false")
    return {name.strip(): parse_truth(value.strip()) for name, _, value in pairs}


def _patterns(text: str) -> list[dict[str, Any]]:
    """PATTERN=LEVEL, with commas between."""
    items = []
    for part in filter(None, text.split(",")):
        pattern, _, level = part.partition("=")
        if part.count("=") != 1 or not pattern or not level:
            raise ValueError(f"{part!r} is not PATTERN=LEVEL")
        items.append({"filePattern": pattern, "verbosity": _level(level)})
    return items


def _put(values: dict[str, Any], path: str, value: object) -> None:
    *sections, name = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value


def _spread(values: dict[str, Any]) -> None:
    """Values of flags that say more than one field, or that of the mode."""
    if "masqueradeAll" in values:
        values.setdefault("iptables", {})["masqueradeAll"] = values["masqueradeAll"]
        values.setdefault("nftables", {})["masqueradeAll"] = values.pop("masqueradeAll")
    if values.get("mode") == "nftables":
        # The periods of iptables mode hold for both modes, of which the file has one section each.
        section = values.get("iptables", {})
        for name in PERIODS & section.keys():
            values.setdefault("nftables", {})[name] = section.pop(name)


TEXT: Final = Kind(str)
TRUTH: Final = Kind(parse_truth, is_truth=True)
INTEGER: Final = Kind(_integer)
LEVEL: Final = Kind(_level)
NUMBER: Final = Kind(_number)
QUANTITY: Final = Kind(_quantity)
DURATION: Final = Kind(_duration)
LIST: Final = Kind(_list, join=lambda first, second: first + second)
GATES: Final = Kind(_gates, join=lambda first, second: first | second)
PATTERNS: Final = Kind(_patterns, join=lambda first, second: first + second)
PERIODS: Final = frozenset({"syncPeriod", "minSyncPeriod"})
SPREAD: Final = {
    "masquerade-all": ("iptables.masqueradeAll", "nftables.masqueradeAll"),
    "iptables-sync-period": ("nftables.syncPeriod",),
    "iptables-min-sync-period": ("nftables.minSyncPeriod",),
}
"""Paths that flags say besides their own."""
_NO_CADVISOR: Final = "kbe-nat asks for no identity of the machine"
FLAGS: Final = {
    "bind-address": Flag(TEXT, "bindAddress"),
    "bind-address-hard-fail": Flag(TRUTH, "bindAddressHardFail"),
    "boot-id-file": Flag(TEXT, no_effect=_NO_CADVISOR),
    "cleanup": Flag(TRUTH),
    "cluster-cidr": Flag(TEXT, "clusterCIDR"),
    "config": Flag(TEXT),
    "config-sync-period": Flag(DURATION, "configSyncPeriod"),
    "conntrack-max-per-core": Flag(INTEGER, "conntrack.maxPerCore"),
    "conntrack-min": Flag(INTEGER, "conntrack.min"),
    "conntrack-tcp-be-liberal": Flag(TRUTH, "conntrack.tcpBeLiberal"),
    "conntrack-tcp-timeout-close-wait": Flag(DURATION, "conntrack.tcpCloseWaitTimeout"),
    "conntrack-tcp-timeout-established": Flag(DURATION, "conntrack.tcpEstablishedTimeout"),
    "conntrack-udp-timeout": Flag(DURATION, "conntrack.udpTimeout"),
    "conntrack-udp-timeout-stream": Flag(DURATION, "conntrack.udpStreamTimeout"),
    "detect-local-mode": Flag(TEXT, "detectLocalMode"),
    "feature-gates": Flag(GATES, "featureGates"),
    "healthz-bind-address": Flag(TEXT, "healthzBindAddress"),
    "help": Flag(TRUTH),
    "hostname-override": Flag(TEXT, "hostnameOverride"),
    "init-only": Flag(TRUTH),
    "iptables-localhost-nodeports": Flag(TRUTH, "iptables.localhostNodePorts"),
    "iptables-masquerade-bit": Flag(INTEGER, "iptables.masqueradeBit"),
    "iptables-min-sync-period": Flag(DURATION, "iptables.minSyncPeriod"),
    "iptables-sync-period": Flag(DURATION, "iptables.syncPeriod"),
    "ipvs-exclude-cidrs": Flag(LIST, "ipvs.excludeCIDRs"),
    "ipvs-min-sync-period": Flag(DURATION, "ipvs.minSyncPeriod"),
    "ipvs-scheduler": Flag(TEXT, "ipvs.scheduler"),
    "ipvs-strict-arp": Flag(TRUTH, "ipvs.strictARP"),
    "ipvs-sync-period": Flag(DURATION, "ipvs.syncPeriod"),
    "ipvs-tcp-timeout": Flag(DURATION, "ipvs.tcpTimeout"),
    "ipvs-tcpfin-timeout": Flag(DURATION, "ipvs.tcpFinTimeout"),
    "ipvs-udp-timeout": Flag(DURATION, "ipvs.udpTimeout"),
    "kube-api-burst": Flag(INTEGER, "clientConnection.burst"),
    "kube-api-content-type": Flag(TEXT, "clientConnection.contentType"),
    "kube-api-qps": Flag(NUMBER, "clientConnection.qps"),
    "kubeconfig": Flag(TEXT, "clientConnection.kubeconfig"),
    "log-flush-frequency": Flag(DURATION, "logging.flushFrequency"),
    "log-text-info-buffer-size": Flag(QUANTITY, "logging.options.text.infoBufferSize"),
    "log-text-split-stream": Flag(TRUTH, "logging.options.text.splitStream"),
    "logging-format": Flag(TEXT, "logging.format"),
    "machine-id-file": Flag(TEXT, no_effect=_NO_CADVISOR),
    "masquerade-all": Flag(TRUTH, "masqueradeAll"),
    "master": Flag(TEXT),
    "metrics-bind-address": Flag(TEXT, "metricsBindAddress"),
    "nodeport-addresses": Flag(LIST, "nodePortAddresses"),
    "oom-score-adj": Flag(INTEGER, "oomScoreAdj"),
    "pod-bridge-interface": Flag(TEXT, "detectLocal.bridgeInterface"),
    "pod-interface-name-prefix": Flag(TEXT, "detectLocal.interfaceNamePrefix"),
    "profiling": Flag(TRUTH, "enableProfiling"),
    "proxy-mode": Flag(TEXT, "mode"),
    "show-hidden-metrics-for-version": Flag(TEXT, "showHiddenMetricsForVersion"),
    "v": Flag(LEVEL, "logging.verbosity"),
    "vmodule": Flag(PATTERNS, "logging.vmodule"),
    "write-config-to": Flag(TEXT),
}
BESIDE_FILE: Final = frozenset(
    {
        "boot-id-file",
        "cleanup",
        "config",
        "help",
        "hostname-override",
        "init-only",
        "log-flush-frequency",
        "log-text-info-buffer-size",
        "log-text-split-stream",
        "logging-format",
        "machine-id-file",
        "master",
        "v",
        "vmodule",
        "write-config-to",
    }
)
"""Flags that kube-proxy follows beside `--config`."""
MAX_DIGITS: Final = 40
_INTEGER: Final = re.compile(
    r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*"
    r"|[1-9](?:_?[0-9])*)"
)
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ITEM: Final = r'(?:[^",]*|"(?:[^"]|"")*")'
_LINE: Final = re.compile(f"{_ITEM}(?:,{_ITEM})*")
_BRACKETS: Final = re.compile(r"\[\d+\]")


_LEVEL: Final = re.compile(r"-v(?:=(.*)|([0-9]+))", re.DOTALL)
