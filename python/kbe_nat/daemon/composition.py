"""Makes a daemon from its settings: the only place where its parts are put together.

A part is made once: the engine, what the kernel does (`Datapath`), what keeps the two in step
(`Controller`), the source of objects, and the queues, which `Proxy` opens when it runs. To make
them changes nothing in the kernel; nor does `Proxy.render`, which is the dry run.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from kbe_nat._native import BackendIdMap, Engine, FlowCache, Limits, NftTables, NodeAddresses
from kbe_nat.commands import GracePeriod
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.cluster_events import ClusterEvents
from kbe_nat.daemon.conntrack import conntrack_settings
from kbe_nat.daemon.facts import Facts, NodeFacts
from kbe_nat.daemon.live_settings import ConfigurationFile, LiveSettings
from kbe_nat.daemon.node_addresses import LocalAddresses
from kbe_nat.daemon.own_node import node_name
from kbe_nat.daemon.proxy import Proxy, Queue
from kbe_nat.daemon.settings import Driver, Settings
from kbe_nat.daemon.singleton import only_proxy
from kbe_nat.datapath import detect
from kbe_nat.datapath.cached import Cached
from kbe_nat.datapath.datapath import Datapath, Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import SPIN_SECONDS, NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.errors import (
    FlowCacheError,
    MissingSettingError,
    PrivilegeError,
    RulesError,
    SettingError,
)
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.model import Choice, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.installer import InstallerName, RuleInstaller, probe, remove_rules, usable
from kbe_nat.rules.kube_proxy import kube_proxy_rules
from kbe_nat.rules.nat_program import NatProgram
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.rules.slots import DEFAULT_SLOTS, SlotClasses
from kbe_nat.rules.standby import OnDeath
from kbe_nat.sources.events import EventQueue
from kbe_nat.sources.kubernetes.access import is_in_cluster
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.manifests.listing import check_paths
from kbe_nat.sources.manifests.manifests import Manifests
from kbe_nat.sources.source import Source, Sources
from kbe_nat.sources.store import Store


def build(
    settings: Settings,
    rules: RuleInstaller | None = None,
    flags: Mapping[str, str] | None = None,
    file: ConfigurationFile | None = None,
) -> Proxy:
    """The daemon, ready to run. `rules` takes the place of the installer that would be probed for,
    for every-packet; `flags` are shown on its page of flags; the daemon follows `file` while it
    runs. Cost: a dozen commands that ask the kernel what it can do.

    Raises `SettingError` when a setting has no effect here, `FileError`, and `RulesError` when the
    kernel cannot do what is asked for.
    """
    requests = RestMetrics()
    has_api = _asks_api_server(settings) or not settings.source.manifests
    events = EventQueue(requests) if has_api else None
    live = LiveSettings(settings, file, has_api_server=has_api)
    source = _source(live, requests, events)
    grace = GracePeriod()
    commands = Commands(grace=grace)
    kind, reason, cache = _choice(settings, commands)
    settings.check_effect(kind)
    if kind.offloads:
        datapath: Datapath
        datapath, lack = _offloading(settings, commands, cache)
        reason += lack
        installer = "nft and netlink, in a table for each family"
    else:
        datapath, installer = _every_packet(settings, commands, rules)
    seed = settings.balancing.seed
    seed = secrets.randbits(64) if seed is None else seed
    engine = _engine(settings, seed, kind)
    addresses = LocalAddresses(NodeAddresses())
    controller = Controller(
        engine,
        datapath,
        _options(live, addresses),
        settings.balancing.drain_removed,
        addresses.poll,
    )
    facts = Facts(
        datapath=kind,
        reason=reason,
        driver=settings.datapath.driver,
        queues=settings.queue_numbers(kind),
        rules=installer,
        seed=seed,
        other_proxies=_rivals(settings, commands),
        # iptables' set match wants it, also to remove the rules of a run of the other datapath.
        lends_net_raw=kind is DatapathKind.EVERY_PACKET
        or any(installer.is_present() for installer in usable(commands)),
    )
    cluster_events = ClusterEvents(events, node_name(settings)) if events is not None else None
    queues = _queues(settings, kind, datapath.backend_ids)
    node = NodeFacts(dict(flags or {}), has_api, requests, cluster_events)
    return Proxy(live, source, controller, queues, facts, grace, node)


def _choice(settings: Settings, commands: Commands) -> tuple[DatapathKind, str, FlowCache | None]:
    """The datapath, why it was taken, and its cache if it has one. Raises `RulesError`."""
    kind, reason = detect.choose(settings.datapath.kind, commands)
    if kind is not DatapathKind.CACHED:
        return kind, reason, None
    try:
        # Now: later on this process has CAP_NET_ADMIN alone.
        return kind, reason, FlowCache(max_flows=2 * settings.datapath.cache.max_flows)
    except FlowCacheError as error:
        if settings.datapath.kind is not None:
            raise RulesError(f"the datapath cached does not work here: {error}") from None
        # The kernel could, and has no room for its maps.
        return *detect.without_cache(str(error)), None


def _rivals(settings: Settings, commands: Commands) -> tuple[str, ...]:
    """Where rules stand of a proxy that decides about our Services too. One beside us has other
    Services, and one from which we take over goes.
    """
    is_agreed = settings.node.proxy_name is not None or settings.datapath.takes_over
    return () if is_agreed else kube_proxy_rules(commands)


def clean_up(settings: Settings) -> list[str]:
    """Remove what a daemon with these settings has left in the kernel. Returns what that was, for
    people. Raises `ControlError` while one runs, `RulesError`.
    """
    with only_proxy():
        return detect.clean_up(Commands(), settings.marks.marks)


def initialise(settings: Settings) -> None:
    """Set what serving needs more privileges for than CAP_NET_ADMIN: how the kernel tracks
    connections, where it carries them. Raises `PrivilegeError` for what the kernel refuses.
    """
    kind, _ = detect.choose(settings.datapath.kind, Commands())
    if kind.offloads:
        refused = conntrack_settings(settings.configuration).set_in_kernel()
        if refused:
            raise PrivilegeError(f"the kernel tracks connections as before: {', '.join(refused)}")


def _source(live: LiveSettings, requests: RestMetrics, events: EventQueue | None) -> Source:
    """Files, the API server, or both in one store."""
    settings = live.settings
    wanted = settings.source
    is_asked = _asks_api_server(settings)
    if not wanted.manifests:
        if not is_asked and not is_in_cluster():
            raise MissingSettingError(
                "--manifests", "say where the objects are, here or by --kubeconfig"
            )
        # What files leave out, the control plane has filled in.
        return _api_server(live, Store(), requests, events)
    check_paths(wanted.manifests)
    store = Store(FileCompletion(wanted.pod_range))
    manifests = Manifests(
        wanted.manifests, store, is_strict=wanted.is_strict, gone_seconds=GONE_SECONDS
    )
    if not is_asked:
        if wanted.api_encoding is not None:
            reason = "no API server is asked (--kubeconfig, --master)"
            raise SettingError("--api-encoding", f"it has no effect: {reason}")
        return manifests
    return Sources([manifests, _api_server(live, store, requests, events)])


def _asks_api_server(settings: Settings) -> bool:
    """Whether a flag or the file names one."""
    return bool(settings.configuration.client_connection.kubeconfig or settings.source.master)


def _api_server(
    live: LiveSettings, store: Store, requests: RestMetrics, events: EventQueue | None
) -> Source:
    # A daemon of files does without asyncio and a client of HTTP, which take 20 MB.
    from kbe_nat.daemon.api_server import api_server

    return api_server(live.settings, store, requests, events, lambda: live.settings)


def _engine(settings: Settings, seed: int, kind: DatapathKind) -> Engine:
    return Engine(
        seed=seed,
        limits=Limits(
            max_flows=settings.limits.max_flows,
            max_flows_per_source=settings.limits.max_flows_per_source,
            max_decisions=settings.limits.decisions,
        ),
        timeouts=conntrack_settings(settings.configuration).timeouts(),
        # Rules of every-packet stand ahead of the kernel's translation, which still comes.
        offloaded="pass" if kind is DatapathKind.EVERY_PACKET else "decide",
    )


def _offloading(
    settings: Settings, commands: Commands, cache: FlowCache | None
) -> tuple[Datapath, str]:
    """The datapath in which the kernel carries the flows, and what it lacks here, to follow the
    reason why it was taken.
    """
    refusal = detect.spread_refusal(commands)
    lack = f"; while no daemon runs each Service has one endpoint: {refusal}" if refusal else ""
    drops_invalid = settings.datapath.drops_invalid
    if drops_invalid is not False and (refused := detect.invalid_refusal(commands)):
        lack += f"; packets that conntrack calls invalid are forwarded: {refused}"
        drops_invalid = False
    first_packet = _first_packet(
        settings, commands, is_able=not refusal, drops_invalid=drops_invalid
    )
    first_packet.inherit()
    if cache is None:
        return first_packet, lack
    return Cached(first_packet, cache, settings.datapath.cache), lack


def _first_packet(
    settings: Settings, commands: Commands, *, is_able: bool, drops_invalid: bool | None
) -> FirstPacket:
    slots = settings.datapath.standby_slots or DEFAULT_SLOTS
    return FirstPacket(
        _diversion(settings, DatapathKind.FIRST_PACKET),
        commands,
        NftTables(),
        settings.datapath.on_death or OnDeath.SERVE,
        leftovers=partial(remove_rules, commands),
        slot_classes=SlotClasses(slots, is_able=is_able),
        choice=settings.datapath.choice or Choice.ENGINE,
        hash_seed=None if settings.balancing.seed is None else settings.balancing.seed % (1 << 32),
        drops_invalid=drops_invalid,
    )


def _every_packet(
    settings: Settings, commands: Commands, rules: RuleInstaller | None
) -> tuple[EveryPacket, str]:
    """The datapath, and what installs its rules."""
    if rules is not None:
        return EveryPacket(
            _diversion(settings, DatapathKind.EVERY_PACKET), rules
        ), "an installer that was given"
    rules, installer = probe(settings.datapath.rules or InstallerName.AUTO, commands)
    program = NatProgram(commands, NftTables(), settings.marks.marks)
    datapath = EveryPacket(
        _diversion(settings, DatapathKind.EVERY_PACKET),
        rules,
        leftovers=program.remove,
        # Also from first-packet, whose connections the kernel carries too.
        takes_over=lambda: settings.datapath.takes_over or program.is_present(),
    )
    return datapath, installer


def _diversion(settings: Settings, kind: DatapathKind) -> Diversion:
    numbers = settings.queue_numbers(kind)
    return Diversion((numbers[0], numbers[-1]), settings.marks.marks)


def _options(live: LiveSettings, addresses: LocalAddresses) -> Callable[[Snapshot], Options]:
    """A function from the objects to the options of this node."""

    node = ""

    def options(snapshot: Snapshot) -> Options:
        nonlocal node
        settings = live.settings
        # The host's addresses are those of now: they come and go.
        local = () if settings.node.node_addresses else tuple(addresses.current())
        strategy = settings.balancing.strategy
        chosen = settings.node.options(
            snapshot, settings.configuration, strategy, local_addresses=local, former_node=node
        )
        if chosen.node in snapshot.nodes:
            node = chosen.node
        return chosen

    return options


def _queues(
    settings: Settings, kind: DatapathKind, backend_ids: BackendIdMap | None
) -> list[Callable[[], Queue]]:
    """One function per queue, which opens it."""
    queues, marks = settings.queues, settings.marks.marks
    numbers = settings.queue_numbers(kind)
    if settings.datapath.driver is Driver.NETFILTERQUEUE:
        return [
            partial(
                NetfilterQueue,
                number,
                marks=marks,
                backend_ids=backend_ids,
                max_length=queues.length,
            )
            for number in numbers
        ]
    return [
        partial(
            NativeQueue,
            number,
            marks=marks,
            backend_ids=backend_ids,
            max_length=queues.length,
            gso=queues.gso is not False,
            fail_open=settings.fails_open(kind),
            # A thread that spins where the packet came from keeps the client from its answer.
            spin=0.0 if kind.offloads and len(numbers) > 1 else SPIN_SECONDS,
        )
        for number in numbers
    ]


LOG: Final = logging.getLogger("kbe_nat.daemon")
GONE_SECONDS: Final = 2.0
"""Editors and scripts that take a file away put another in its place within that time."""
