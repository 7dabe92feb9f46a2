"""The flags of `kbe-nat proxy`: how each field of `kbe_nat.daemon.settings` is given."""

import os
from functools import partial
from typing import Final, Literal

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.node import NODE_FLAGS
from kbe_nat.cli.flags.options import POD_RANGE_FLAG, SEED_FLAG, SOCKET_FLAG, STRATEGY_FLAG, split
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.kubeproxy.bind_address import HEALTH_PORT, METRICS_PORT, parse_bind_address
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.rules.slots import MAX_SLOTS
from kbe_nat.sources.address import parse_range
from kbe_nat.spelling import none_of


def parse_bit(text: str) -> int:
    """A single bit of the packet mark. Raises ValueError."""
    mask = _mask(text)
    if mask.bit_count() != 1:
        raise ValueError(f"{text!r} is not one bit of 32, such as 0x1000")
    return mask


def parse_bits(text: str) -> int:
    """Bits of the packet mark that stand side by side. Raises ValueError."""
    mask = _mask(text)
    shifted = mask // (mask & -mask) if mask else 0
    if not mask or shifted & (shifted + 1):
        raise ValueError(f"{text!r} is no bits side by side, such as 0xffffc000")
    return mask


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPUs, comma-separated. Raises ValueError for one that this process may not use."""
    usable = os.sched_getaffinity(0)
    for part in split(text):
        if not (part.isascii() and part.isdigit()) or int(part) not in usable:
            raise ValueError(f"{part!r} is not the number of a processor that we may use")
    return tuple(map(int, split(text)))


def parse_datapath(text: str) -> DatapathKind | None:
    """A datapath; None for auto. Raises ValueError."""
    if text == AUTO:
        return None
    if text not in list(DatapathKind):
        raise ValueError(none_of(text, (AUTO, *DatapathKind)))
    return DatapathKind(text)


def parse_ranges(texts: list[str]) -> tuple[str, ...]:
    """Ranges of addresses. Raises ValueError."""
    return tuple(map(parse_range, texts))


def parse_devices(texts: list[str]) -> tuple[str, ...]:
    """Names of network devices, which need not be there. Raises ValueError for what the kernel
    takes as none (dev_valid_name).
    """
    for text in texts:
        is_short = 0 < len(os.fsencode(text)) < NAME_SIZE
        if not is_short or text in (".", "..") or any(c in "/:" or c.isspace() for c in text):
            raise ValueError(f"{text!r} is no name of a device: up to 15 bytes, no blank, '/', ':'")
    return tuple(texts)


def _mask(text: str) -> int:
    """The number of a mask; 0 for what is none of 32 bits."""
    try:
        mask = int(text, 0)
    except ValueError:
        return 0
    return mask if 0 < mask < 1 << 32 else 0


def _mark(flag: str, default: str, meaning: str) -> TextFlag:
    return TextFlag(
        Flag(flag, help=f"Bit of the packet mark: {meaning}. Default: {default}."),
        parse_bit,
    )


AUTO: Final = "auto"
"""In place of a datapath: the one that works best here."""
NAME_SIZE: Final = 16
"""Bytes of a device's name, with its end (IFNAMSIZ)."""
MAX_LENGTH: Final = 1 << 20
MAX_FLOWS: Final = 1 << 26
MAX_CACHED: Final = 1 << 22
MAX_DECISIONS: Final = 1 << 24
"""These take 17 GB."""
PROXY_FLAGS: Final[Flags] = {
    "source": {
        "manifests": TextFlag(
            Flag(
                "--manifests",
                "--filename",
                "-f",
                metavar="FILE",
                help="Directory or file of Kubernetes objects, which is followed; repeatable.",
            ),
            tuple,
            list[str],
        ),
        "master": Flag(
            "--master",
            help="URL of the API server; overrides the one in --kubeconfig. Objects come from"
            " --kubeconfig, --master, --manifests or several of these; default: from the API server"
            " of the Pod that we run in.",
        ),
        "api_encoding": Flag(
            "--api-encoding",
            help="What the API server is asked for; protobuf costs it a third of the processor time"
            " of JSON. Default: as kube-proxy's contentType says, which is protobuf unless set.",
        ),
        "pod_range": TextFlag(
            POD_RANGE_FLAG,
            parse_range,
        ),
        "is_strict": Flag(
            "--strict/--lenient",
            help="Whether it refuses to start when an object is wrong, a file of a directory cannot"
            " be read, or there is no Service; once it serves, the last good state stays.",
        ),
    },
    "node": NODE_FLAGS,
    "balancing": {
        "strategy": STRATEGY_FLAG,
        "seed": SEED_FLAG,
        "drain_removed": Flag(
            "--drain-removed",
            min=0,
            is_duration=True,
            help="After how long TCP connections of removed backends are ended. Default: never.",
        ),
    },
    "datapath": {
        "kind": TextFlag(
            Flag(
                "--datapath",
                metavar=f"<{'|'.join((AUTO, *DatapathKind))}>",
                words=(AUTO, *map(str, DatapathKind)),
                help="What translates: the engine every packet, or the kernel once the engine has"
                " decided about the first; with cached, established flows pass the kernel's stack"
                " by. auto takes cached where the kernel and the capabilities allow it, else"
                " first-packet, else every-packet. Default: auto.",
            ),
            parse_datapath,
            # null, which stands for auto too, is as good as absent.
            written=Literal[(AUTO, *map(str, DatapathKind))],
        ),
        "driver": Flag("--driver", help="What takes packets out of the queue."),
        "rules": Flag(
            "--rules",
            help="How rules of every-packet are put into the kernel; auto takes what it supports."
            " Default: auto.",
        ),
        "on_death": Flag(
            "--on-death",
            help="What happens to new connections while no daemon runs (first-packet). "
            "Default: serve.",
        ),
        "standby_slots": Flag(
            "--standby-slots",
            min=1,
            max=MAX_SLOTS,
            help="Over how many slots, shared out by weight, a Service's new connections spread"
            " while no daemon runs (first-packet); 1: they have one endpoint. Services ask for more"
            " by the annotation kbe-nat.io/standby-slots. Default: 8.",
        ),
        "choice": Flag(
            "--choice",
            help="What chooses the endpoint of a new connection where the strategy is random,"
            " cascade, sh or mh, without affinity and source ranges (first-packet). With kernel"
            " such connections wait for nobody; auto hands Services to it while the queue to the"
            " engine is full. A Service says it by the annotation kbe-nat.io/choice."
            " Default: engine.",
        ),
        "takes_over": Flag(
            "--take-over",
            help="Take kube-proxy's place while its rules stand: its connections go on, new ones"
            " are ours. Then end it, and see --cleanup-kube-proxy.",
        ),
        "drops_invalid": Flag(
            "--drop-invalid/--no-drop-invalid",
            help="Whether the node drops packets that conntrack calls invalid instead of forwarding"
            " them (first-packet, cached); an endpoint's answer among them would have its client"
            " reset the connection. Default: as kube-proxy, with --mode iptables unless"
            " nf_conntrack_tcp_be_liberal is 1.",
        ),
        "max_cached": Flag(
            "--cache-flows",
            min=1,
            max=MAX_CACHED,
            help="Flows that pass the kernel's stack by, at most (cached); each takes 1.2 kB of the"
            " kernel's memory. Default: 32768.",
        ),
        "uncached_ranges": TextFlag(
            Flag(
                "--cache-exclude",
                metavar="CIDR",
                help="Flows with an address of this range go the kernel's whole way (cached);"
                " repeatable.",
            ),
            parse_ranges,
            list[str],
        ),
        "uncached_devices": TextFlag(
            Flag(
                "--cache-exclude-device",
                metavar="NAME",
                help="Packets of this device go the kernel's whole way (cached); repeatable.",
            ),
            parse_devices,
            list[str],
        ),
    },
    "queues": {
        "first": Flag("--queue", min=0, max=QUEUE - 1, help="Number of the first queue."),
        "count": Flag(
            "--queues",
            min=1,
            max=64,
            help="Number of queues, each with a thread. Default: one for each processor, at most"
            " 16, with first-packet and cached; one with every-packet.",
        ),
        "length": Flag(
            "--queue-length", min=1, max=MAX_LENGTH, help="Packets that wait in a queue, at most."
        ),
        "cpus": TextFlag(
            Flag(
                "--cpus",
                help="CPUs for the queue threads, comma-separated. Default: with first-packet and"
                " cached those whose packets come to the queue.",
            ),
            parse_cpus,
        ),
        "gso": Flag(
            "--gso/--no-gso",
            help="Whether TCP arrives as super-packets of up to 64 kB. Default: it does.",
        ),
        "fail_open": Flag(
            "--fail-open/--no-fail-open",
            help="Let packets go on when a queue is full: untranslated with every-packet (default:"
            " no), to what the kernel chooses with first-packet (default: yes, with --on-death"
            " serve).",
        ),
    },
    "limits": {
        "max_flows": Flag(
            "--max-flows", min=1, max=MAX_FLOWS, help="Connections of each family, at most."
        ),
        "max_flows_per_source": Flag(
            "--max-flows-per-source",
            min=1,
            max=MAX_FLOWS,
            help="Connections of one client, at most. Default: no limit.",
        ),
        "decisions": Flag(
            "--decisions",
            min=0,
            max=MAX_DECISIONS,
            help="Decisions about first packets that are remembered for kbe-nat decisions, of 64"
            " bytes each; 0: none.",
        ),
    },
    "marks": {
        "flow": _mark("--mark-flow", "0x1000", "translated"),
        "reject": _mark("--mark-refused", "0x2000", "to be rejected"),
        "masquerade": _mark("--mark-masquerade", "0x80", "to be masqueraded"),
        "backend": TextFlag(
            Flag(
                "--mark-backend",
                help="Bits of the packet mark, side by side: id of the backend (first-packet)."
                " Default: 0xffffc000.",
            ),
            parse_bits,
        ),
    },
    "files": {
        "socket": SOCKET_FLAG,
        "state": Flag("--state", help="File that keeps connections for the next start."),
    },
    "servers": {
        "health": TextFlag(
            Flag(
                "--healthz-bind-address",
                help="Address and port of /healthz and /livez; empty: nowhere. Default:"
                " 0.0.0.0:10256, which is every address of both families.",
            ),
            partial(parse_bind_address, default_port=HEALTH_PORT),
            written=str,
        ),
        "metrics": TextFlag(
            Flag(
                "--metrics-bind-address",
                help="Address and port of /metrics and other pages; empty: nowhere. Default:"
                " 127.0.0.1:10249.",
            ),
            partial(parse_bind_address, default_port=METRICS_PORT),
            written=str,
        ),
        "is_failure_hard": Flag(
            "--bind-address-hard-fail/--no-bind-address-hard-fail",
            help="Whether it ends when one of these ports is taken. Default: it tries again.",
        ),
        "backends": Flag(
            "--metrics-backends",
            help="For what metrics count traffic: nothing, service ports, or each backend too.",
        ),
    },
    "logs": {
        "form": Flag("--log-format", help="How log lines are written."),
        "verbosity": Flag("--verbose", "-v", is_counted=True, help="Log details too."),
    },
    "periods": {"check": None, "checkpoint": None},
    "configuration": None,
}
