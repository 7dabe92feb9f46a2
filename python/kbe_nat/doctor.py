"""Checks of this machine: whether the node proxy can run, what is in its way, what it lacks.

A check changes nothing in the kernel, or takes back what it has tried. What fails without the
privilege is not known: its remedy is the privilege.
"""

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.counting import counted
from kbe_nat.daemon import privileges
from kbe_nat.daemon.rows import StatsRow
from kbe_nat.daemon.settings import Settings
from kbe_nat.daemon.singleton import is_proxy_here
from kbe_nat.datapath.cached import CACHE
from kbe_nat.datapath.detect import (
    cache_refusal,
    choose,
    present,
    spread_refusal,
    uncached_devices,
)
from kbe_nat.datapath.sysctl import ACCOUNTING, sysctl
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.errors import ControlError, FlowCacheError, KbeNatError, QueueError
from kbe_nat.extras import missing
from kbe_nat.extras import remedy as remedy_of
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.installer import InstallerName, probe
from kbe_nat.rules.kube_proxy import kube_proxy_processes, kube_proxy_rules
from kbe_nat.rules.neighbours import Surroundings, mark_writers, neighbours, queue_users
from kbe_nat.rules.rule import DatapathKind, Marks


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"
    """It works, with less than could be."""
    FAILED = "failed"
    """The proxy does not run."""


class Check(msgspec.Struct, frozen=True, rename={"finding": "found"}):
    """`doctor`: one property of the machine."""

    name: str
    """Of the property."""
    state: State
    """ok, note (it works, with less than could be) or failed (the proxy does not run)."""
    finding: str
    """The property as it is."""
    remedy: str = ""
    """The remedy; empty where nothing is to be done."""


def diagnose(socket: Path = DEFAULT_SOCKET) -> Iterator[Check]:
    """Every check, in this process' network namespace, and of the daemon that answers at the
    socket, if one does. Cost: a dozen commands.
    """
    yield Check("kernel", State.OK, f"{platform.system()} {platform.release()}")
    privilege = _privilege()
    yield privilege
    runs, remains = _daemon()
    surroundings = Surroundings.of(Commands())
    for check in (
        runs,
        remains,
        _queue(),
        _rules(),
        _datapath(),
        _flow_cache(),
        _standbys(),
    ):
        if check.state is not State.OK and privilege.state is State.FAILED:
            # Without the privilege the kernel refuses the check itself, whatever it can do.
            yield _unknown(check.name, check.finding)
        else:
            yield check
    yield from _notices(socket)
    yield _kube_proxy(surroundings)
    for check in _neighbours(surroundings):
        yield _as_seen(check, surroundings)
    yield from _settings()
    yield _super_packets()
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    yield Check(
        "commands",
        State.NOTE if absent else State.OK,
        f"{', '.join(absent)} missing" if absent else f"{', '.join(COMMANDS)} are here",
        "install them" if absent else "",
    )
    yield from _packages()


def _settings() -> Iterator[Check]:
    """Settings of the kernel."""
    yield _setting(
        "forwarding",
        "net.ipv4.ip_forward",
        "1",
        "IP forwarding is on",
        "clients on the wire are not served: set it to 1",
    )
    yield _setting(
        "byte-counters",
        ACCOUNTING,
        "1",
        "conntrack counts the bytes of each flow",
        "with first-packet and cached, packets and bytes are not known: set it to 1",
    )
    yield _setting(
        "redirects",
        "net.ipv4.conf.all.send_redirects",
        "0",
        "none are sent",
        "an ICMP redirect may take the place of a rejection that leaves by the device of its"
        " packet: set it to 0",
    )
    yield _setting(
        "bridges",
        "net.bridge.bridge-nf-call-iptables",
        "0",
        "bridged packets do not meet the rules",
        "masquerading is skipped for a pod that reaches itself: route between pods, or set it to 0",
    )


def _as_seen(check: Check, surroundings: Surroundings) -> Check:
    """A check that found nothing is no finding where something could not be read."""
    unread = [name for name in READERS[check.name] if name in surroundings.unread]
    if check.state is not State.OK or not unread:
        return check
    return _unknown(check.name, f"{', '.join(unread)} cannot be read")


def _unknown(name: str, reason: str) -> Check:
    return Check(name, State.NOTE, f"not known: {reason}", "ask again with the privilege")


def _packages() -> Iterator[Check]:
    """The packages of extras that serving needs, or can use."""
    lacking = missing("proxy")
    yield Check(
        "packages",
        State.FAILED if lacking else State.OK,
        f"{', '.join(lacking)} missing" if lacking else "those of the proxy are here",
        remedy_of("proxy") if lacking else "",
    )
    has_package = not missing("netfilterqueue")
    use = f"only --driver netfilterqueue needs it: {remedy_of('netfilterqueue')}"
    yield Check(
        "netfilterqueue",
        State.OK if has_package else State.NOTE,
        "the package is here" if has_package else "the package is not here",
        "" if has_package else use,
    )


def _privilege() -> Check:
    if privileges.effective() >> privileges.CAP_NET_ADMIN & 1:
        return Check("privilege", State.OK, "CAP_NET_ADMIN")
    return Check(
        "privilege", State.FAILED, "no CAP_NET_ADMIN", "run as root, or give it this capability"
    )


def _daemon() -> tuple[Check, Check]:
    """Whether a proxy runs in this network namespace, and whether rules of one are in force."""
    try:
        is_running = is_proxy_here()
        rules = present(Commands())
    except KbeNatError as error:
        refusal = Check("daemon", State.NOTE, str(error))
        return refusal, msgspec.structs.replace(refusal, name="our-rules")
    runs = Check("daemon", State.OK, f"{'a' if is_running else 'no'} kbe-nat proxy runs here")
    if not rules:
        return runs, Check("our-rules", State.OK, "none are in the kernel")
    finding = f"in the kernel: {', '.join(rules)}"
    if is_running:
        return runs, Check("our-rules", State.OK, finding)
    remedy = "start kbe-nat proxy, or take them away by kbe-nat proxy --cleanup"
    return runs, Check("our-rules", State.NOTE, f"{finding}, and no daemon listens", remedy)


def _queue() -> Check:
    # Queues at the end of the range are the least likely to be in use.
    for queue in (65534, 65533, 65532):
        try:
            NativeQueue(queue).close()
        except QueueError as error:
            if "another process" in str(error):
                continue
            return Check(
                "packet-queues", State.FAILED, str(error), "the module nfnetlink_queue is needed"
            )
        return Check("packet-queues", State.OK, "the kernel has them")
    return Check("packet-queues", State.OK, "the kernel has them, and others use them")


def _datapath() -> Check:
    try:
        kind, reason = choose(None, Commands())
        if kind.offloads:
            return Check("datapath", State.OK, f"{kind}: {reason}")
        # Every-packet needs rules that an installer can write here.
        probe(InstallerName.AUTO, Commands())
    except KbeNatError as error:
        return Check(
            "datapath", State.FAILED, f"none works: {error}", "install nft, or iptables and ipset"
        )
    remedy = (
        "every packet costs, and connections wait while no daemon runs; install nft, if that is"
        " missing"
    )
    return Check("datapath", State.NOTE, f"{kind}: {reason}", remedy)


def _standbys() -> Check:
    refusal = spread_refusal(Commands())
    if not refusal:
        return Check("standbys", State.OK, "the kernel can spread connections over endpoints")
    remedy = (
        "with first-packet, new connections of a Service have one endpoint while no daemon runs:"
        " the kernel's modules nft_numgen and nft_hash are needed, and nft 1.0.6"
    )
    return Check("standbys", State.NOTE, refusal, remedy)


def _flow_cache() -> Check:
    refusal = cache_refusal()
    if refusal:
        return Check(
            "flow-cache", State.NOTE, refusal, "without it --datapath auto takes first-packet"
        )
    try:
        left_out = uncached_devices()
    except FlowCacheError as error:
        return Check("flow-cache", State.NOTE, f"devices cannot be listed: {error}")
    finding = "the kernel can have one, for the datapath cached"
    if not left_out:
        return Check("flow-cache", State.OK, finding)
    more = f", and at {len(left_out) - MOST_PLACES} more" * (len(left_out) > MOST_PLACES)
    return Check(
        "flow-cache",
        State.NOTE,
        f"{finding}, but not at {'; '.join(left_out[:MOST_PLACES])}{more}",
        "packets of these devices go the kernel's way; nothing need be done",
    )


def _notices(path: Path) -> Iterator[Check]:
    """Whether the daemon has heard all that the programs of its flow cache had to tell; nothing
    where none with a cache answers.
    """
    with suppress(ControlError):
        for stats in ask(path, "stats", StatsRow):
            untold = stats.kernel.get(f"{CACHE}untold")
            if untold is None:
                continue
            yield Check(
                "cache-notices",
                State.NOTE if untold else State.OK,
                f"{counted(untold, 'notice')} of resets and volumes found no room"
                if untold
                else "the daemon has heard of all resets and volumes of cached connections",
                "connections that were reset meanwhile stayed in conntrack for up to 10 s; let the"
                " daemon have more processor time"
                if untold
                else "",
            )


def _rules() -> Check:
    try:
        installer = probe(InstallerName.AUTO, Commands())[1]
        return Check("rules", State.OK, f"every-packet by {installer}")
    except KbeNatError as error:
        remedy = (
            "every-packet needs iptables and ipset, or nft where the kernel has its queue statement"
        )
        return Check("rules", State.NOTE, str(error), remedy)


def _kube_proxy(surroundings: Surroundings) -> Check:
    places = kube_proxy_rules(Commands())
    if not places:
        return _as_seen(Check("kube-proxy", State.OK, "no rules of it are here"), surroundings)
    processes = kube_proxy_processes()
    running = f", and it runs (process {', '.join(map(str, processes))})" if processes else ""
    remedy = (
        "two proxies decide about the same Services: take its place by --take-over and"
        " --cleanup-kube-proxy, or serve beside it by --service-proxy-name"
    )
    finding = f"its rules are here: {', '.join(places)}{running}"
    return Check("kube-proxy", State.NOTE, finding, remedy)


def _neighbours(surroundings: Surroundings) -> Iterator[Check]:
    """Other programs that have a say in the same packets."""
    others = neighbours(surroundings)
    for name, signs, remedy in others:
        yield Check("other-proxies", State.NOTE, f"{name} is here: {', '.join(signs)}", remedy)
    if not others:
        yield Check("other-proxies", State.OK, "no CNI that translates Services is known here")
    writers = mark_writers(surroundings, Marks())
    yield Check(
        "marks",
        State.NOTE if writers else State.OK,
        "; ".join(f"{place} writes {bits:#x} of ours" for place, bits in writers[:MOST_PLACES])
        or "no rules of others write bits of ours",
        "packets may be rejected, or go to a wrong endpoint: give us other bits (--mark-flow,"
        " --mark-refused, --mark-masquerade, --mark-backend)"
        if writers
        else "",
    )
    numbers = Settings().queue_numbers(DatapathKind.FIRST_PACKET)
    users_by_queue = {
        number: users for number in numbers if (users := queue_users(surroundings, number))
    }
    number, users = next(iter(users_by_queue.items()), (numbers[0], []))
    yield Check(
        "queue-number",
        State.NOTE if users else State.OK,
        f"rules of others send packets to queue {number}: {', '.join(users[:MOST_PLACES])}"
        if users
        else f"no rules of others use queues {numbers[0]} to {numbers[-1]}",
        "we would decide about their packets: take another number by --queue" if users else "",
    )
    devices = surroundings.with_programs
    yield Check(
        "programs-at-devices",
        State.NOTE if devices else State.OK,
        f"BPF sees packets ahead of rules at {', '.join(devices[:MOST_PLACES])}"
        if devices
        else "no BPF program sees packets ahead of rules (XDP, tc)",
        "packets that it translates or redirects do not come to us: see whose it is (bpftool net)"
        if devices
        else "",
    )


def _super_packets() -> Check:
    """Whether devices make packets of more than 64 kB ("BIG TCP")."""
    try:
        devices = json.loads(Commands().run(("ip", "-details", "-json", "link", "show")))
    except (KbeNatError, ValueError) as error:
        return Check("super-packets", State.NOTE, f"devices cannot be listed: {error}")
    large = [
        str(device.get("ifname"))
        for device in devices
        if any(device.get(setting, 0) > LARGEST_SUPER_PACKET for setting in SUPER_PACKET_SETTINGS)
    ]
    if not large:
        return Check("super-packets", State.OK, "none of more than 64 kB")
    remedy = (
        "with every-packet, packets of more than 65,531 bytes are dropped and counted as truncated:"
        f" set {', '.join(SUPER_PACKET_SETTINGS)} to {LARGEST_SUPER_PACKET}"
    )
    return Check(
        "super-packets", State.NOTE, f"more than 64 kB (BIG TCP): {', '.join(large)}", remedy
    )


def _setting(name: str, setting: str, wanted: str, good: str, bad: str) -> Check:
    """Whether a setting of the kernel has this value; one that the kernel does not have is fine."""
    value = sysctl(setting)
    if value in (None, wanted):
        return Check(name, State.OK, good)
    return Check(name, State.NOTE, f"{setting} is {value}", bad)


SUPER_PACKET_SETTINGS: Final = (
    "gso_max_size",
    "gro_max_size",
    "gso_ipv4_max_size",
    "gro_ipv4_max_size",
)
MOST_PLACES: Final = 3
_RULE_LISTS: Final = ("iptables-save", "ip6tables-save", "nft")
READERS: Final = {
    "kube-proxy": _RULE_LISTS,
    "other-proxies": ("ip", *_RULE_LISTS, "/sys/fs/bpf"),
    "marks": _RULE_LISTS,
    "queue-number": _RULE_LISTS,
    "programs-at-devices": ("ip", "tc"),
}
"""What a check is read from, by the names of `Surroundings.unread`."""
LARGEST_SUPER_PACKET: Final = 65_536
COMMANDS: Final = ("iptables", "iptables-restore", "ipset", "nft", "ip")
