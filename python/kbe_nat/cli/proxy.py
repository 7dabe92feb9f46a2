"""`kbe-nat proxy`: the node proxy, in kube-proxy's place."""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from kbe_nat._native import Engine, NftTables, NodeAddresses
from kbe_nat.cli.flags.node import NodeFlags, takes_node_flags
from kbe_nat.cli.flags.options import (
    SOCKET,
    DefaultStrategy,
    PodRange,
    Seed,
    Socket,
    parse,
    refuse_given,
    split,
    warn,
)
from kbe_nat.commands import Haste
from kbe_nat.control.controller import Controller
from kbe_nat.daemon import privileges
from kbe_nat.daemon.logs import LogFormat, log_to_stderr
from kbe_nat.daemon.node_addresses import LocalAddresses
from kbe_nat.daemon.proxy import LOG, Proxy, Settings
from kbe_nat.daemon.singleton import QUEUE, only_proxy
from kbe_nat.daemon.standard_error import unhinder_stderr
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.detect import DatapathName, choose, clean_up
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.datapath.sysctl import ACCOUNTING
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.errors import ArgumentError, PrivilegeError
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.policy.options import Options
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.installer import InstallerName, probe, remove_rules, usable
from kbe_nat.rules.kube_proxy import kube_proxy_rules
from kbe_nat.rules.nat_program import NatProgram
from kbe_nat.rules.rule import DatapathKind, Marks
from kbe_nat.rules.standby import OnDeath
from kbe_nat.sources.address import parse_range
from kbe_nat.sources.manifests.defaults import POD_RANGE
from kbe_nat.sources.manifests.manifests import Manifests


class Driver(StrEnum):
    """Who takes packets out of the queue."""

    NATIVE = "native"
    NETFILTERQUEUE = "netfilterqueue"


GONE_SECONDS: Final = 2.0
"""Editors and scripts that take a file away put another in its place within that time."""
MAX_WAITING: Final = 1 << 20
MAX_FLOWS: Final = 1 << 26
"""These take 17 GB."""


@takes_node_flags
def proxy(
    command: typer.Context,
    manifests: Annotated[
        list[str],
        typer.Option(
            help="Directory or file of Kubernetes objects, which is followed; repeatable."
        ),
    ] = [],  # noqa: B006
    *,
    flags: NodeFlags,
    pod_range: PodRange = POD_RANGE,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--lenient",
            help="Whether it refuses to start when an object is wrong, a file of a directory cannot be"
            " read, or there is no Service; once it serves, the last good state stays.",
        ),
    ] = False,
    strategy: DefaultStrategy = Strategy.RANDOM,
    seed: Seed = None,
    driver: Annotated[
        Driver, typer.Option(help="Who takes packets out of the queue.")
    ] = Driver.NATIVE,
    datapath: Annotated[
        DatapathName,
        typer.Option(
            help="Who translates: the engine every packet, or the kernel once the engine has decided about the"
            " first; auto takes first-packet where the kernel can."
        ),
    ] = DatapathName.AUTO,
    on_death: Annotated[
        OnDeath, typer.Option(help="What new connections meet while no daemon runs (first-packet).")
    ] = OnDeath.SERVE,
    queue: Annotated[
        int, typer.Option(min=0, max=QUEUE - 1, help="Number of the first queue.")
    ] = 100,
    queues: Annotated[
        int, typer.Option(min=1, max=64, help="Number of queues, each with a thread.")
    ] = 1,
    queue_length: Annotated[
        int, typer.Option(min=1, max=MAX_WAITING, help="Packets that wait in a queue, at most.")
    ] = 16_384,
    cpus: Annotated[
        str, typer.Option(help="Processors for these threads, with commas between.")
    ] = "",
    gso: Annotated[
        bool,
        typer.Option("--gso/--no-gso", help="Whether TCP arrives as super-packets of up to 64 kB."),
    ] = True,
    fail_open: Annotated[
        bool | None,
        typer.Option(
            "--fail-open/--no-fail-open",
            help="Let packets go on when a queue is full: untranslated with every-packet (default: no), to what"
            " the kernel chooses with first-packet (default: yes, with --on-death serve).",
        ),
    ] = None,
    max_flows: Annotated[
        int, typer.Option(min=1, max=MAX_FLOWS, help="Connections of each family, at most.")
    ] = 262_144,
    max_flows_per_source: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_FLOWS, help="Connections of one client, at most. Default: no limit."
        ),
    ] = None,
    rules: Annotated[
        InstallerName,
        typer.Option(
            help="How rules of every-packet are put into the kernel; auto takes what it supports."
        ),
    ] = InstallerName.AUTO,
    mark_flow: Annotated[str, typer.Option(help="Bit of the packet mark: translated.")] = "0x1000",
    mark_refused: Annotated[
        str, typer.Option(help="Bit of the packet mark: to be refused.")
    ] = "0x2000",
    mark_masquerade: Annotated[
        str, typer.Option(help="Bit of the packet mark: to be masqueraded.")
    ] = "0x80",
    mark_backend: Annotated[
        str,
        typer.Option(
            help="Bits of the packet mark, side by side: number of the backend (first-packet)."
        ),
    ] = "0xffffc000",
    drain_removed: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds after which TCP connections of removed backends are ended. Default: never.",
        ),
    ] = None,
    socket: Socket = SOCKET,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps connections for the next start.")
    ] = Path("/run/kbe-nat/connections"),
    log_format: Annotated[
        LogFormat, typer.Option(help="How log lines are written.")
    ] = LogFormat.TEXT,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log details too.")
    ] = 0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print exactly what would be put into the kernel, and end."),
    ] = False,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Take all rules of ours out of the kernel, and end.")
    ] = False,
) -> None:
    """Serve the Services of a directory on this node: divert their packets, translate them, follow
    changes.

    Needs CAP_NET_ADMIN and gives up every other privilege, but for CAP_NET_RAW that iptables'
    commands want with every-packet. SIGTERM, SIGINT and SIGHUP end it and take the rules away;
    SIGUSR2 ends it for a restart, and leaves them. Connections are kept for the next start; drains,
    and strategies that were set while it ran, are not.

    See also: kbe-nat doctor.
    """
    unhinder_stderr()
    log_to_stderr(log_format, verbose)
    if not dry_run and not privileges.effective() >> privileges.CAP_NET_ADMIN & 1:
        raise PrivilegeError("CAP_NET_ADMIN is needed: run as root, or give it this capability")
    flow, refused, masquerade = map(_bit, (mark_flow, mark_refused, mark_masquerade), MARK_FLAGS)
    marks = Marks(flow, refused, masquerade, _bits(mark_backend, "--mark-backend"))
    if len({flow, refused, masquerade}) < len(MARK_FLAGS):
        raise typer.BadParameter("two of these are the same bit", param_hint=", ".join(MARK_FLAGS))
    if marks.backend & (marks.flow | marks.reject | marks.masquerade):
        raise typer.BadParameter(
            "the other marks' bits are among these", param_hint="--mark-backend"
        )
    if dry_run and cleanup:
        raise typer.BadParameter(
            "it prints what would be put in, not what is taken out", param_hint="--dry-run"
        )
    if queue + queues > QUEUE:
        reason = f"the last queue would be {queue + queues - 1}; {QUEUE - 1} is the last that carries packets"
        raise typer.BadParameter(reason, param_hint="--queues")
    processors = tuple(parse(_cpu, text, "--cpus") for text in split(cpus))
    haste = Haste()
    commands = Commands(haste=haste)
    if cleanup:
        with only_proxy():
            clean_up(commands, marks)
        return
    if not manifests:
        raise typer.BadParameter("say where the objects are", param_hint="--manifests")
    seed = secrets.randbits(64) if seed is None else seed
    engine = Engine(
        seed=seed,
        max_flows=max_flows,
        max_flows_per_source=max_flows_per_source,
    )
    source = Manifests(
        manifests,
        pod_range=parse(parse_range, pod_range, "--pod-range"),
        is_strict=strict,
        gone_seconds=GONE_SECONDS,
    )
    addresses = LocalAddresses(NodeAddresses())

    def options(snapshot: Snapshot) -> Options:
        own = flags if flags.node_address else replace(flags, node_address=addresses.found())
        try:
            return own.options(snapshot, strategy)
        except typer.BadParameter as error:
            raise ArgumentError(error.format_message()) from None

    numbers = range(queue, queue + queues)
    diversion = Diversion((numbers[0], numbers[-1]), marks)
    way, reason = choose(datapath, commands)
    carrying: EveryPacket | FirstPacket
    _check_effect(command, way, driver)
    if way is DatapathKind.FIRST_PACKET:
        why = "nft and netlink, in a table for each family"
        leftovers = partial(remove_rules, commands)
        carrying = FirstPacket(diversion, commands, NftTables(), on_death, leftovers)
    else:
        backend, why = probe(rules, commands)
        carrying = EveryPacket(diversion, backend, NatProgram(commands, NftTables(), marks).remove)
    controller = Controller(engine, carrying, options, drain_removed, addresses.look)
    if dry_run:
        _print_rules(source, controller)
        return
    if fail_open is None:
        fail_open = way is DatapathKind.FIRST_PACKET and on_death is OnDeath.SERVE
    LOG.info("datapath %s: %s", way, reason)
    if not carrying.counts_bytes():
        LOG.info("packets and bytes of connections are not counted: %s is 0", ACCOUNTING)
    if places := kube_proxy_rules(commands):
        LOG.warning(
            "kube-proxy's rules are here too, and decide about the same Services: %s",
            ", ".join(places),
        )
    LOG.info("rules by %s; queue %s by %s; seed %d", why, _span(numbers), driver, seed)
    opened: list[Callable[[], NativeQueue | NetfilterQueue]] = [
        partial(
            NativeQueue,
            number,
            marks=marks,
            backend_ids=carrying.backend_ids,
            max_length=queue_length,
            gso=gso,
            fail_open=fail_open,
        )
        if driver is Driver.NATIVE
        else partial(
            NetfilterQueue,
            number,
            marks=marks,
            backend_ids=carrying.backend_ids,
            max_length=queue_length,
        )
        for number in numbers
    ]
    about = {
        "datapath": str(way),
        "driver": str(driver),
        "queues": _span(numbers),
        "rules": why,
        "seed": seed,
    }
    # iptables' set match wants it, also to take away what a run of the other datapath has left.
    is_raw_lent = way is DatapathKind.EVERY_PACKET or any(
        own.is_present() for own in usable(commands)
    )
    settings = Settings(socket, state, processors, is_raw_lent=is_raw_lent)
    Proxy(source, controller, opened, settings, about, haste).run()


def _check_effect(command: typer.Context, way: DatapathKind, driver: Driver) -> None:
    if way is DatapathKind.FIRST_PACKET:
        reason = "it has no effect: first-packet is taken here, whose rules are always nft's (--datapath)"
        refuse_given(command, ["rules"], reason)
    else:
        reason = "it has no effect: every-packet is taken here, where the kernel chooses no backend (--datapath)"
        refuse_given(command, ["on_death", "mark_backend"], reason)
    if driver is Driver.NETFILTERQUEUE:
        refuse_given(
            command,
            ["gso", "fail_open"],
            "it has no effect: the driver netfilterqueue has no such thing",
        )


def _print_rules(source: Manifests, controller: Controller) -> None:
    update = source.read()
    if update is not None:
        warn(*map(str, update.errors), *update.notes, *update.warnings)
        controller.apply(update.snapshot)
        warn(*controller.plan.notes)
    print(controller.render(), end="")


def _bit(text: str, flag: str) -> int:
    """A single bit of the packet mark."""
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if number.bit_count() != 1 or number >= 1 << 32:
        raise typer.BadParameter(f"{text!r} is not one bit of 32, such as 0x1000", param_hint=flag)
    return number


def _bits(text: str, flag: str) -> int:
    """Bits of the packet mark that stand side by side."""
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 32 or (number // (number & -number)) & (
        number // (number & -number) + 1
    ):
        raise typer.BadParameter(
            f"{text!r} is no bits side by side, such as 0xffffc000", param_hint=flag
        )
    return number


def _cpu(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) not in os.sched_getaffinity(0):
        raise ValueError(f"{text!r} is not the number of a processor that we may use")
    return int(text)


def _span(numbers: range) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


MARK_FLAGS: Final = ("--mark-flow", "--mark-refused", "--mark-masquerade")
