"""Everything that an operator decides about a daemon, in one value.

`Settings` has a part for each concern, with the defaults. The command line fills it in
(`kbe_nat.cli.flags.proxy`), tests and programs write it directly, and
`kbe_nat.daemon.composition.build` makes a daemon from it. Contradictions are refused here: between
settings when the value is made, with the datapath that the kernel allows by
`Settings.check_effect`. Errors name the flag. A field that is None was not set, so that a setting
without an effect can be told from a default.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from kbe_nat.client import DEFAULT_SOCKET
from kbe_nat.daemon.logs import LogFormat
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.datapath.cached import CacheSettings
from kbe_nat.drivers.native import processors_of, queues_for_processors
from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.bind_address import (
    HEALTH_PORT,
    METRICS_PORT,
    NOWHERE,
    BindAddress,
    parse_bind_address,
)
from kbe_nat.kubeproxy.config import Configuration
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Choice, Strategy
from kbe_nat.rules.installer import InstallerName
from kbe_nat.rules.rule import DatapathKind, Marks
from kbe_nat.rules.standby import OnDeath
from kbe_nat.sources.kubernetes.encodings import Encoding
from kbe_nat.sources.manifests.defaults import POD_RANGE


class Driver(StrEnum):
    """The program that takes packets out of the queues."""

    NATIVE = "native"
    NETFILTERQUEUE = "netfilterqueue"


@dataclass(frozen=True)
class SourceSettings:
    """Where the objects come from."""

    manifests: tuple[str, ...] = ()
    """Directories and files."""
    master: str = ""
    """URL of the API server, in the place of the kubeconfig's (`clientConnection.kubeconfig`)."""
    api_encoding: Encoding | None = None
    """What the API server is asked for; None: `clientConnection.contentType` says it."""
    pod_range: str = POD_RANGE
    """Address range of Pods that a controller implies but no object lists."""
    is_strict: bool = False
    """It does not start when an object is wrong, a file unreadable, or there is no Service."""


@dataclass(frozen=True)
class BalancingSettings:
    """How backends are chosen, and when their connections end."""

    strategy: Strategy = Strategy.RANDOM
    """For Services without the annotation."""
    seed: int | None = None
    """Of random choices; None: any."""
    drain_removed: float | None = None
    """Seconds after which TCP connections of removed backends are ended; None: never."""


@dataclass(frozen=True)
class DatapathSettings:
    """The datapath, and how it is set up."""

    kind: DatapathKind | None = None
    """None: the cheapest that works here: cached, first-packet, every-packet."""
    driver: Driver = Driver.NATIVE
    rules: InstallerName | None = None
    """How rules of every-packet are installed; None: whichever the kernel supports."""
    on_death: OnDeath | None = None
    """The fate of new connections while no daemon runs, with first-packet; None: served."""
    standby_slots: int | None = None
    """Over which a frontend's new connections spread meanwhile; None: `DEFAULT_SLOTS`."""
    choice: Choice | None = None
    """What chooses backends for Services that do not say it, with first-packet; None: the engine.
    """
    takes_over: bool = False
    """Another proxy has served here: its connections go on, and new ones are ours."""
    drops_invalid: bool | None = None
    """Packets that belong to no connection are not forwarded, with first-packet; None: as by
    kube-proxy.
    """
    max_cached: int | None = None
    """Flows that pass the kernel's stack by, with cached; None: as many as `CacheSettings` has."""
    uncached_ranges: tuple[str, ...] = ()
    """Addresses whose flows do not."""
    uncached_devices: tuple[str, ...] = ()
    """Devices whose packets do not."""

    @property
    def cache(self) -> CacheSettings:
        """What is cached."""
        return CacheSettings(
            self.max_cached or CacheSettings.max_flows, self.uncached_ranges, self.uncached_devices
        )


@dataclass(frozen=True)
class QueueSettings:
    """The kernel's queues, each with a thread of ours."""

    first: int = 100
    count: int | None = None
    """None: one for each processor where packets only ask for a choice, otherwise one."""
    length: int = 16_384
    """Packets that wait in a queue, at most."""
    cpus: tuple[int, ...] = ()
    """For the threads, one each in turn; empty: those whose packets come to the queue, where each
    has its own, otherwise any.
    """
    gso: bool | None = None
    """Whether TCP arrives as super-packets of up to 64 kB; None: it does."""
    fail_open: bool | None = None
    """Whether packets pass a full queue; None: with first-packet that serves on death."""


@dataclass(frozen=True)
class LimitSettings:
    """Connections and decisions, at most."""

    max_flows: int = 262_144
    """Of each family."""
    max_flows_per_source: int | None = None
    """Of one client; None: any number."""
    decisions: int = 65_536
    """About first packets that are remembered, for `kbe-nat decisions`; 0: none."""


@dataclass(frozen=True)
class MarkSettings:
    """Bits of the packet mark; see `Marks`."""

    flow: int = 0x1000
    reject: int = 0x2000
    masquerade: int = 0x80
    backend: int | None = None
    """None: those that `Marks` has."""

    @property
    def marks(self) -> Marks:
        """The bits that are used."""
        singles = (self.flow, self.reject, self.masquerade)
        return Marks(*singles) if self.backend is None else Marks(*singles, self.backend)


@dataclass(frozen=True)
class FileSettings:
    """Files of the daemon."""

    socket: Path = DEFAULT_SOCKET
    """By which it is controlled."""
    state: Path | None = Path("/run/kbe-nat/connections")
    """Where connections are kept for the next start; None: nowhere."""


class MetricsBackends(StrEnum):
    """For what traffic is counted in metrics, which bounds their number."""

    OFF = "off"
    SERVICE = "service"
    BACKEND = "backend"


@dataclass(frozen=True)
class ServerSettings:
    """Where the daemon answers over HTTP. None where the configuration file or a default counts."""

    health: BindAddress | None = None
    """Of /healthz and /livez."""
    metrics: BindAddress | None = None
    """Of /metrics and the other pages."""
    is_failure_hard: bool | None = None
    """The daemon does not start when it cannot listen at one of them."""
    backends: MetricsBackends = MetricsBackends.SERVICE

    def health_address(self, file: Configuration) -> BindAddress | None:
        """Where /healthz is; None: nowhere."""
        default = "::" if ":" in file.bind_address else "0.0.0.0"
        return _bind_address(self.health, file.healthz_bind_address, (default, HEALTH_PORT))

    def metrics_address(self, file: Configuration) -> BindAddress | None:
        """Where /metrics is; None: nowhere."""
        default = "::1" if ":" in file.bind_address else "127.0.0.1"
        return _bind_address(self.metrics, file.metrics_bind_address, (default, METRICS_PORT))

    def fails_hard(self, file: Configuration) -> bool:
        """Whether a port that is taken ends the daemon."""
        return file.bind_address_hard_fail if self.is_failure_hard is None else self.is_failure_hard


@dataclass(frozen=True)
class LogSettings:
    """How much is logged, and in which format."""

    form: LogFormat = LogFormat.TEXT
    verbosity: int = 0


@dataclass(frozen=True)
class PeriodSettings:
    """Seconds between two runs of a task."""

    check: float = 5.0
    """That repairs the rules."""
    checkpoint: float = 10.0
    """That writes connections to the file."""


@dataclass(frozen=True)
class Settings:
    """All of it. Raises `SettingError` when two settings contradict each other."""

    source: SourceSettings = SourceSettings()
    node: NodeSettings = field(default_factory=NodeSettings)
    balancing: BalancingSettings = BalancingSettings()
    datapath: DatapathSettings = DatapathSettings()
    queues: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    marks: MarkSettings = MarkSettings()
    files: FileSettings = FileSettings()
    servers: ServerSettings = ServerSettings()
    logs: LogSettings = LogSettings()
    periods: PeriodSettings = PeriodSettings()
    configuration: Configuration = Configuration()  # noqa: RUF009
    """What kube-proxy has options for; fields that nobody has set are empty or None, see
    `kbe_nat.kubeproxy.effective.complete`.
    """

    def __post_init__(self) -> None:
        marks = self.marks.marks
        singles = (marks.flow, marks.reject, marks.masquerade)
        if len(set(singles)) < len(singles):
            raise SettingError(", ".join(MARK_FLAGS), "two of these are the same bit")
        if marks.backend & (marks.flow | marks.reject | marks.masquerade):
            raise SettingError("--mark-backend", "the other marks' bits are among these")
        if self.datapath.takes_over and self.node.proxy_name is not None:
            raise SettingError(
                "--take-over",
                "nothing is to be taken over beside another proxy (--service-proxy-name)",
            )
        if self.datapath.on_death is OnDeath.REFUSE:
            if self.datapath.choice in (Choice.KERNEL, Choice.AUTO):
                raise SettingError(
                    "--choice", "the kernel chooses without a daemon too (--on-death refuse)"
                )
            slots = self.datapath.standby_slots
            _refuse_set({"--standby-slots": slots}, "nothing stands by (--on-death refuse)")
        for flag, path in (("--socket", self.files.socket), ("--state", self.files.state)):
            if path == Path():
                raise SettingError(flag, "it names no file")
        last = self.queues.first + (self.queues.count or 1) - 1
        if last >= QUEUE:
            raise SettingError(
                "--queues",
                f"the last queue would be {last}; {QUEUE - 1} is the last that carries packets",
            )

    def check_effect(self, kind: DatapathKind) -> None:
        """Raises `SettingError` when a setting has no effect with this datapath."""
        chosen, queues = self.datapath, self.queues
        unused: dict[str, object] = {}
        if kind.offloads:
            reason = f"{kind} is taken here, whose rules are always nft's (--datapath)"
            unused = {"--rules": chosen.rules}
        else:
            reason = "every-packet is taken here, where the kernel chooses no backend (--datapath)"
            unused = {
                "--on-death": chosen.on_death,
                "--standby-slots": chosen.standby_slots,
                "--choice": chosen.choice,
                "--drop-invalid": chosen.drops_invalid,
                "--mark-backend": self.marks.backend,
            }
        _refuse_set(unused, reason)
        if kind is not DatapathKind.CACHED:
            _refuse_set(
                {
                    "--cache-flows": chosen.max_cached,
                    "--cache-exclude": chosen.uncached_ranges or None,
                    "--cache-exclude-device": chosen.uncached_devices or None,
                },
                f"{kind} is taken here, which has no cache (--datapath cached)",
            )
        if chosen.driver is Driver.NETFILTERQUEUE:
            _refuse_set(
                {"--gso": queues.gso, "--fail-open": queues.fail_open},
                "the driver netfilterqueue has no such thing",
            )

    def queue_numbers(self, kind: DatapathKind) -> range:
        """Of the queues with this datapath."""
        count = self.queues.count
        if count is None:
            # Packets of a flow would overtake each other in several queues, and threads of Python
            # wait for each other.
            is_spread = kind.offloads and self.datapath.driver is Driver.NATIVE
            count = queues_for_processors() if is_spread else 1
        return range(self.queues.first, min(self.queues.first + count, QUEUE))

    def processors(self, kind: DatapathKind, place: int) -> frozenset[int]:
        """Where the thread of the queue at this place runs; empty: anywhere."""
        cpus, count = self.queues.cpus, len(self.queue_numbers(kind))
        if cpus:
            return frozenset((cpus[place % len(cpus)],))
        return processors_of(place, count) if kind.offloads and count > 1 else frozenset()

    def fails_open(self, kind: DatapathKind) -> bool:
        """Whether packets pass a full queue."""
        if self.queues.fail_open is not None:
            return self.queues.fail_open
        return kind.offloads and self.datapath.on_death is not OnDeath.REFUSE


def _bind_address(flag: BindAddress | None, text: str, default: BindAddress) -> BindAddress | None:
    """The address by flag, file or default; None for a flag that switches it off."""
    address = flag or (parse_bind_address(text, default[1]) if text else default)
    return None if address == NOWHERE else address


def _refuse_set(values: dict[str, object], reason: str) -> None:
    for flag, value in values.items():
        if value is not None:
            raise SettingError(flag, f"it has no effect: {reason}")


MARK_FLAGS: Final = ("--mark-flow", "--mark-refused", "--mark-masquerade")
