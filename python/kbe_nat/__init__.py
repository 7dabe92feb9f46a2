"""Kubernetes Services on a node in userspace: a NAT engine in Rust, driven from Python.

The engine takes tables and packets and gives verdicts; it does no input or output. A Service with
two endpoints, and the packet that opens a connection to it:

>>> import kbe_nat
>>> backends = [kbe_nat.Backend("172.17.0.3", 9876), kbe_nat.Backend("172.17.0.4", 9876)]
>>> service = kbe_nat.ServicePort(
...     "default/simpleservice", [kbe_nat.Frontend("172.30.228.255", 80)], backends, strategy="rr"
... )
>>> engine = kbe_nat.Engine(seed=1)
>>> engine.replace_services([service])
>>> syn = bytes.fromhex(
...     "45000028000100004006dda20a00020fac1ee4ffc000005000000000000000005002200032650000"
... )
>>> verdict = engine.process(syn, now=0)
>>> verdict.action, verdict.is_new
('translate', True)
>>> [(flow.source, flow.destination, flow.reply_source) for flow in engine.flows()]
[(('10.0.2.15', 49152), ('172.30.228.255', 80), ('172.17.0.3', 9876))]

`load` makes an engine of files with Kubernetes objects. Its three steps are there by themselves: a
source (`kbe_nat.sources`) yields a `Snapshot`, `kbe_nat.policy.planner.plan` decides which
endpoints serve which clients of one node, and `kbe_nat.engine_tables.native_tables` hands that to
the engine. A `Session` serves packets one by one; a `Loop` joins an engine with a driver
(`kbe_nat.drivers`). `kbe_nat.packets` builds packets by their fields.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kbe_nat._native import (
        ACTIONS,
        CAUSES,
        TIMEOUTS,
        Backend,
        BackendStats,
        ConnectTimes,
        Decision,
        Engine,
        Explanation,
        Flow,
        FlowTable,
        Frontend,
        Limits,
        Loop,
        NodePorts,
        NodeView,
        PortUse,
        ServicePort,
        ServiceStats,
        Snat,
        Stats,
        Timeouts,
        Verdict,
        __version__,
        reject,
    )
    from kbe_nat.errors import (
        ArgumentError,
        CaptureError,
        CheckpointError,
        ControlError,
        FileError,
        KbeNatError,
        ObjectError,
        PacketError,
        PlaygroundError,
        QueueError,
        RulesError,
        ServiceError,
    )
    from kbe_nat.loading import load
    from kbe_nat.model import Snapshot, Strategy
    from kbe_nat.session import Outcome, Session

__all__ = [
    "ACTIONS",
    "CAUSES",
    "TIMEOUTS",
    "ArgumentError",
    "Backend",
    "BackendStats",
    "CaptureError",
    "CheckpointError",
    "ConnectTimes",
    "ControlError",
    "Decision",
    "Engine",
    "Explanation",
    "FileError",
    "Flow",
    "FlowTable",
    "Frontend",
    "KbeNatError",
    "Limits",
    "Loop",
    "NodePorts",
    "NodeView",
    "ObjectError",
    "Outcome",
    "PacketError",
    "PlaygroundError",
    "PortUse",
    "QueueError",
    "RulesError",
    "ServiceError",
    "ServicePort",
    "ServiceStats",
    "Session",
    "Snapshot",
    "Snat",
    "Stats",
    "Strategy",
    "Timeouts",
    "Verdict",
    "__version__",
    "load",
    "reject",
]


def __getattr__(name: str) -> object:
    # A name is imported when it is asked for: the command starts without the engine, and programs
    # that use the engine alone without the packages that read objects.
    if name in __all__:
        from importlib import import_module

        for module in ("_native", "errors", "session", "model", "loading"):
            try:
                value = getattr(import_module(f"kbe_nat.{module}"), name)
            except AttributeError:
                continue
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
