"""Kubernetes Services on a node: a NAT engine in Rust, driven from Python.

>>> import kbe_nat
>>> web, pod = kbe_nat.Frontend("10.96.0.1", 80), kbe_nat.Backend("10.244.0.3", 8080)
>>> engine = kbe_nat.Engine(seed=1)
>>> engine.update_service(kbe_nat.ServicePort("default/web", [web], [pod]))
>>> engine.process(kbe_nat.packets.opening("tcp", ("10.0.2.15", 49152), ("10.96.0.1", 80)), now=0)
<Verdict translate: new, original, new flow>

Tables and packets go in, verdicts come out; the engine has no socket, thread or clock.

- Tables: `load` makes an `Engine` of files with Kubernetes objects. `ServicePort`, `Frontend`,
  `Backend`, `NodeView` and `NodePorts` are the same as values, `Strategy` has the names of
  strategies, and a `Snapshot` is what files say. `Limits`, `Timeouts` and `Snat` are settings.
- Packets: a `Session` is an engine with a clock, for packets one by one. A `Loop` joins an engine
  with a queue of `drivers`. `reject` answers a packet that was refused.
- Answers: `Verdict`, `Outcome`, `Explanation`, `Decision`, `Flow`, `FlowTable`, and `Stats` with
  `ServiceStats`, `BackendStats`, `ConnectTimes` and `PortUse`.
- Errors: every error that is raised on purpose is a `KbeNatError`.

Modules for programs: `packets` builds and reads packets; `words` has the words of verdicts,
strategies and policies as types; `errors` has all errors; `drivers` has queues of packets; `compat`
has the interface of the netfilterqueue package; `lab` compares strategies. All other modules are
kbe-nat's own and change without notice. `help(kbe_nat.Engine)` and the like have arguments, units,
errors and costs; `dir(kbe_nat)` lists all names; docs/python.md is the guide.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kbe_nat import compat, drivers, errors, lab, packets, words
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
    "compat",
    "drivers",
    "errors",
    "lab",
    "load",
    "packets",
    "reject",
    "words",
]


def __getattr__(name: str) -> object:
    # A name is imported when it is asked for: the command starts without the engine, and programs
    # that use the engine alone without the packages that read objects.
    if name in __all__:
        from importlib import import_module

        if name in ("compat", "drivers", "errors", "lab", "packets", "words"):
            return import_module(f"kbe_nat.{name}")
        for module in ("_native", "errors", "session", "model", "loading"):
            try:
                value = getattr(import_module(f"kbe_nat.{module}"), name)
            except AttributeError:
                continue
            # It is called by the name that programs may use. `errors` is theirs already.
            if getattr(value, "__module__", __name__) not in (__name__, f"{__name__}.errors"):
                value.__module__ = __name__
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Modules that were imported meanwhile are attributes too, and not all of them are for programs.
    workings = ("__dir__", "__getattr__")
    special = (name for name in globals() if name.startswith("__") and name not in workings)
    return sorted({*__all__, *special})
