"""Every native class is a value (equal, hashed, pickled, copied) or a machine that refuses."""

import copy
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kbe_nat
from kbe_nat import _native
from kbe_nat.packets import Packet, opening

ROOT = Path(__file__).parent.parent
CAPTURE = str(ROOT / "examples/traffic.pcap")
SYN = opening("tcp", ("10.0.0.9", 4000), ("10.96.0.1", 80))


def engine() -> kbe_nat.Engine:
    """An engine with an answered connection, a refused one, and a Service without endpoints."""
    result = kbe_nat.Engine(seed=1, snat=kbe_nat.Snat(["192.0.2.1"]))
    result.replace_services(
        [
            service(affinity_seconds=60),
            kbe_nat.ServicePort("a/none", [kbe_nat.Frontend("10.96.0.2", 80)], []),
        ]
    )
    result.process(SYN, 0)
    answer = Packet("tcp", ("10.0.0.1", 8080), ("10.0.0.9", 4000), "SA", acknowledgement=1)
    result.process(bytes(answer), 1_000_000)
    result.process(opening("tcp", ("10.0.0.9", 4001), ("10.96.0.2", 80)), 2_000_000)
    return result


def service(**settings: Any) -> kbe_nat.ServicePort:
    return kbe_nat.ServicePort(
        "a/web:http",
        [kbe_nat.Frontend("10.96.0.1", 80), kbe_nat.Frontend("", 30080, "node-port")],
        [kbe_nat.Backend("10.0.0.1", 8080)],
        **settings,
    )


def stats() -> kbe_nat.Stats:
    return engine().stats()


def fragment() -> bytes:
    """A later fragment, which waits for the first one."""
    packet = bytearray(bytes(Packet("udp", ("10.0.0.9", 1), ("10.96.0.1", 80), payload=bytes(32))))
    packet[6:8] = (8).to_bytes(2)
    packet[10:12] = bytes(2)
    total = sum(int.from_bytes(packet[n : n + 2]) for n in range(0, 20, 2))
    packet[10:12] = (~(total % 0xFFFF) & 0xFFFF).to_bytes(2)
    return bytes(packet)


def entry() -> Any:
    ends = ["10.0.0.9:4000", "10.96.0.1:80", "10.0.0.1:8080", "10.0.0.9:4000"]
    numbers, head = [7, 0x1000, None], (6, [True, True, True], 3, 120)
    return _native._restore("ConntrackEntry", (numbers, head, ends, [(1, 40), (2, 80)], 1_000))


def cached() -> Any:
    ends = ["10.0.0.9:4000", "10.96.0.1:80", "10.0.0.9:4000", "10.0.0.1:8080"]
    return _native._restore("CachedFlow", (6, ends, (7, 700), (3, 2, True, False)))


def queued() -> Any:
    state = ((1, 0x800, 3, 5, 2, 0, 40), (0, 0), (b"\2" * 6, None, SYN), False)
    return _native._restore("QueuedPacket", state)


def refusal() -> Any:
    fields = ["Service", "a", "web", "12", "spec.ports", "why"]
    return _native._restore("ProtobufRefusal", fields)


SERVICES: list[dict[str, Any]] = [
    {},
    {"family": 4, "protocol": "udp", "is_internal_local": True, "is_external_local": True},
    {
        "local_backends": [kbe_nat.Backend("10.0.0.1", 8080, 3, hairpin=False)],
        "serving_backends": [kbe_nat.Backend("10.0.0.7", 8080)],
    },
    {"source_ranges": ["192.0.2.0/24", "198.51.100.7"], "source_ranges_apply_to_all": True},
    {"strategy": "mh", "table_size": 13},
    {"strategy": "ring", "virtual_nodes": 7},
    {"strategy": "bounded", "virtual_nodes": 7, "epsilon": 0.3},
    {"strategy": "peak-ewma", "decay": 0.7},
    {"affinity_seconds": 10},
]
VALUES: dict[str, Callable[[], list[Any]]] = {
    "Backend": lambda: [
        kbe_nat.Backend("10.0.0.1", 80),
        kbe_nat.Backend("fd00::1", 80, 0),
        kbe_nat.Backend("10.0.0.1", 80, hairpin=False),
    ],
    "BackendStats": lambda: [stats().services[1].backends[0]],
    "CachedFlow": lambda: [cached()],
    "ConnectTimes": lambda: [stats().services[1].connects],
    "ConntrackEntry": lambda: [entry()],
    "Decision": lambda: engine().decisions(),
    "Explanation": lambda: [
        engine().explain(packet, 0)
        for packet in (
            SYN,
            opening("tcp", ("10.0.0.8", 1), ("10.96.0.1", 80)),
            opening("tcp", ("10.0.0.8", 1), ("10.96.0.2", 80)),
            opening("tcp", ("10.0.0.8", 1), ("192.0.2.77", 80)),
        )
    ],
    "Flow": lambda: list(engine().flows()),
    "Frontend": lambda: [
        kbe_nat.Frontend("10.96.0.1", 80),
        kbe_nat.Frontend("", 30080, "node-port"),
        kbe_nat.Frontend("fd00::1", 80, "load-balancer"),
    ],
    "Limits": lambda: [kbe_nat.Limits(), kbe_nat.Limits(max_flows=7, max_flows_per_source=3)],
    "NftTable": lambda: [_native.NftTable(4, "a"), _native.NftTable(6, "a")],
    "NodePorts": lambda: [
        kbe_nat.NodePorts(),
        kbe_nat.NodePorts(
            ["192.0.2.1"], wildcard_families=[6], reject_addresses=["192.0.2.2"], loopback=True
        ),
    ],
    "NodeView": lambda: [
        kbe_nat.NodeView(),
        kbe_nat.NodeView(
            addresses=["192.0.2.1"],
            node_ports=kbe_nat.NodePorts(["192.0.2.2"]),
            pod_ranges=["10.244.0.0/16"],
            pod_interfaces=[3],
            masquerade_all=True,
            unknown_port="drop",
            unallocated=["10.96.0.0/12"],
            mode="nftables",
        ),
    ],
    "PortUse": lambda: [stats().port_use],
    "ProtobufRefusal": lambda: [refusal()],
    "QueuedPacket": lambda: [queued()],
    "ServicePort": lambda: [service(**settings) for settings in SERVICES],
    "ServiceStats": lambda: stats().services,
    "Snat": lambda: [
        kbe_nat.Snat(["192.0.2.1"]),
        kbe_nat.Snat(["192.0.2.1"], allocation="blocks", block_size=256, ports=(1024, 4095)),
        kbe_nat.Snat([], allocation="deterministic", clients=["10.0.0.0/8"], reserved=(0, 1)),
        kbe_nat.Snat([], mapping="endpoint-independent"),
    ],
    "Stats": lambda: [kbe_nat.Engine(seed=1).stats(), stats()],
    "Timeouts": lambda: [kbe_nat.Timeouts(), kbe_nat.Timeouts(udp=0.1)],
    "Verdict": lambda: [
        engine().process(SYN, 3_000_000),
        engine().process(opening("tcp", ("10.0.0.8", 1), ("10.96.0.2", 80)), 0),
        kbe_nat.Engine(seed=1).process(SYN, 0),
        engine().process(fragment(), 0),
    ],
}
MACHINES: dict[str, Callable[[], Any]] = {
    "AnswerWatch": lambda: _native.AnswerWatch(engine(), socket_buffer=65536),
    "Assignment": lambda: _native.Assignment(b'{"name": "random"}', 1, None),
    "BackendIdMap": lambda: _native.BackendIdMap(1),
    "CaptureBatch": lambda: _native.CaptureReader(CAPTURE).read_batch(1, 0),
    "CaptureReader": lambda: _native.CaptureReader(CAPTURE),
    "CaptureWriter": lambda: _native.CaptureWriter("/dev/null", _native.CaptureReader(CAPTURE)),
    "ConntrackEvents": lambda: _native.ConntrackEvents(socket_buffer=65536),
    "ConntrackSync": lambda: _native.ConntrackSync(engine(), socket_buffer=65536),
    "Engine": engine,
    "CacheSync": lambda: None,
    "FlowCache": lambda: None,
    "FlowTable": lambda: engine().flows_table(),
    "HeldConnections": lambda: None,
    "HeldFlows": lambda: None,
    "KernelQueue": lambda: None,
    "LabCell": lambda: None,
    "Loop": lambda: kbe_nat.Loop(engine(), SimpleNamespace(receive=None, set_verdicts=None)),
    "NftElements": lambda: _native.NftElements(4, 0, bytes(4)),
    "NftRule": lambda: _native.NftRule.queue(0, 1, bypass=True, fanout=False, native=True),
    "NftTables": _native.NftTables,
    "NodeAddresses": _native.NodeAddresses,
    "ProtobufDocument": lambda: None,
    "ProtobufFrames": _native.ProtobufFrames,
    "ProtobufList": lambda: None,
    "RawQueue": lambda: None,
    "TrafficServer": lambda: None,
    "Transaction": _native.Transaction,
}
"""None: one that is made by more than a line here; its method is there all the same."""


def test_every_class_is_a_value_or_a_machine() -> None:
    classes = {
        name
        for name in _native.__all__
        if inspect.isclass(getattr(_native, name)) and name != "PanicException"
    }
    assert classes == set(VALUES) | set(MACHINES)
    assert not set(VALUES) & set(MACHINES)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_equal_hashed_pickled_and_copied(name: str) -> None:
    values, others = VALUES[name](), VALUES[name]()
    assert values
    for position, (value, other) in enumerate(zip(values, others, strict=True)):
        assert type(value).__name__ == name
        assert value == other
        assert hash(value) == hash(other)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            restored = pickle.loads(pickle.dumps(value, protocol))
            assert restored == value
            assert hash(restored) == hash(value)
            assert repr(restored) == repr(value)
        assert copy.copy(value) == copy.deepcopy(value) == value
        assert len({value, copy.copy(value)}) == 1
        assert all(value != later for later in values[position + 1 :])
        assert value != object()
        assert value != 5


@pytest.mark.parametrize("name", VALUES)
def test_every_property_of_a_value_survives(name: str) -> None:
    for value in VALUES[name]():
        restored = pickle.loads(pickle.dumps(value))
        for member in vars(type(value)):
            if not member.startswith("_") and not callable(getattr(value, member)):
                assert getattr(restored, member) == getattr(value, member), member


CHANGES: dict[str, dict[str, Any]] = {
    "Backend": {"weight": 7},
    "Frontend": {"port": 81},
    "Limits": {"max_flows": 11},
    "NftTable": {"name": "c"},
    "NodePorts": {"loopback": False},
    "NodeView": {"masquerade_all": False},
    "ServicePort": {"name": "a/other"},
    "Snat": {"ports": (2000, 3000)},
    "Timeouts": {"tcp_close": 0.5},
}


@pytest.mark.parametrize(
    "name", [name for name in VALUES if hasattr(getattr(_native, name), "__replace__")]
)
def test_a_value_is_replaced_in_part(name: str) -> None:
    (change,) = CHANGES[name].items()
    for value in VALUES[name]():
        before = pickle.dumps(value)
        changed = value.__replace__(**dict([change]))
        assert value == pickle.loads(before) == value.__replace__()
        assert getattr(changed, change[0], change[1]) == change[1]
        _, (_, _, fields) = value.__reduce__()
        _, (_, _, others) = changed.__reduce__()
        assert others == {**fields, **dict([change])}
        with pytest.raises((TypeError, kbe_nat.ArgumentError), match="nothing"):
            value.__replace__(nothing=1)
        if sys.version_info >= (3, 13):
            assert copy.replace(value, **dict([change])) == changed


def test_what_follows_from_an_argument_follows_from_its_replacement() -> None:
    view = kbe_nat.NodeView(addresses=["192.0.2.1"]).__replace__(addresses=["192.0.2.2"])
    assert view == kbe_nat.NodeView(addresses=["192.0.2.2"])
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services([service()], view)
    reached = [
        engine.process(opening("tcp", ("10.0.0.9", 1), (address, 30080)), 0).action
        for address in ("192.0.2.1", "192.0.2.2")
    ]
    assert reached == ["pass", "translate"]
    assert kbe_nat.Limits(max_flows=5).__replace__(max_flows=9).max_unassured == 9
    assert kbe_nat.Limits(max_unassured=5).__replace__(max_flows=9).max_unassured == 5


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_refuses_and_says_why(name: str) -> None:
    assert "__reduce__" in vars(getattr(_native, name))
    try:
        machine = MACHINES[name]()
    except kbe_nat.KbeNatError as error:
        pytest.skip(str(error))
    if machine is None:
        return
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=f"^{name} cannot be pickled or copied: "):
            refused(machine)


def test_an_engine_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"restore a checkpoint\(\) of it into another one"):
        pickle.dumps(kbe_nat.Engine())


def test_a_restored_service_port_serves_alike() -> None:
    for settings in SERVICES:
        restored = pickle.loads(pickle.dumps(service(**settings)))
        actions = []
        for port in (service(**settings), restored):
            engine = kbe_nat.Engine(seed=5)
            engine.replace_services([port])
            protocol = settings.get("protocol", "tcp")
            packets = [
                opening(str(protocol), ("10.0.0.9", number), ("10.96.0.1", 80))
                for number in range(1000, 1050)
            ]
            actions.append([engine.process(packet, 0) for packet in packets])
        assert actions[0] == actions[1]


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("Verdict", (255, None)),
        ("Flow", ((6, None, True, True, True), ["a"] * 4, "", ([1, 1], [1, 1]), (0.0, 0.0))),
        ("ConnectTimes", ([1], 1)),
        ("Nothing", ()),
        ("Stats", ()),
    ],
)
def test_a_damaged_state_is_an_error(name: str, state: object) -> None:
    with pytest.raises((kbe_nat.ArgumentError, TypeError, ValueError)):
        _native._restore(name, state)


def test_threads_share_an_iterator_of_flows() -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services([service()])
    for port in range(1, 20_001):
        engine.process(opening("tcp", ("10.0.0.9", port), ("10.96.0.1", 80)), 0)
    flows = engine.flows()
    assert repr(flows) == "<Flows: an iterator>"
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: [flow.source[1] for flow in flows], range(8)))
    assert sorted(port for part in parts for port in part) == list(range(1, 20_001))


def test_an_engine_is_referred_to_weakly() -> None:
    engine = kbe_nat.Engine(seed=1)
    reference = weakref.ref(engine)
    assert reference() is engine
    del engine
    gc.collect()
    assert reference() is None


def test_a_subinterpreter_is_refused() -> None:
    program = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import kbe_nat
print(kbe_nat.Engine(seed=1))
name = interpreters.create()
code = "import kbe_nat\\ntry: kbe_nat.Engine\\nexcept ImportError as x: print(x, flush=True)"
interpreters.run_string(name, code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "<Engine: 0 service ports, 0 flows>"
    refused = ("kbe_nat runs in the main interpreter alone", "does not support loading in sub")
    assert any(words in done.stdout for words in refused), done


REPRS = {
    "Verdict": (
        "<Verdict translate: established, original>",
        "<Verdict reject: no-endpoints>",
        "<Verdict pass: not-ours>",
        "<Verdict hold: fragment-held, ticket 2>",
    ),
    "Snat": (
        "<Snat 192.0.2.1, ports 1024-65535: preserve, endpoint-dependent>",
        "<Snat 192.0.2.1, ports 1024-4095: blocks, endpoint-dependent>",
        "<Snat without addresses, ports 1024-65535: deterministic, endpoint-dependent>",
        "<Snat without addresses, ports 1024-65535: preserve, endpoint-independent>",
    ),
    "Timeouts": ("Timeouts()", "Timeouts(udp=0.1)"),
    "Stats": (
        "<Stats: 0 packets, 0 flows (0 assured), 0 service ports>",
        "<Stats: 3 packets, 1 flows (0 assured), 2 service ports>",
    ),
    "ServiceStats": (
        "<ServiceStats a/none (IPv4): 0 active of 0 flows, 0 backends>",
        "<ServiceStats a/web:http (IPv4): 1 active of 1 flows, 1 backends>",
    ),
    "BackendStats": ("<BackendStats 10.0.0.1:8080: 1 active of 1 flows>",),
    "NodePorts": ("<NodePorts: none>", "<NodePorts: 192.0.2.1, all of IPv6>"),
    "CachedFlow": (
        "<CachedFlow tcp 10.0.0.9:4000 -> 10.96.0.1:80 as 10.0.0.9:4000 -> 10.0.0.1:8080>",
    ),
    "ConntrackEntry": ("<ConntrackEntry tcp 10.0.0.9:4000 -> 10.96.0.1:80 on 10.0.0.1:8080>",),
}


@pytest.mark.parametrize("name", REPRS)
def test_reprs_tell(name: str) -> None:
    assert tuple(map(repr, VALUES[name]())) == REPRS[name]


def test_no_repr_is_an_address_in_memory() -> None:
    for name, make in VALUES.items():
        for value in make():
            assert " object at 0x" not in repr(value), name


def test_the_repr_of_a_verdict_says_that_its_source_is_masqueraded() -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services([service()], kbe_nat.NodeView(masquerade_all=True))
    verdict = engine.process(SYN, 0)
    assert repr(verdict) == "<Verdict translate: new, original, new flow, masquerade>"


def test_notebooks_show_explanations_and_flows_as_tables() -> None:
    engine = kbe_nat.Engine(seed=1)
    backend, name = kbe_nat.Backend("10.0.0.1", 80), "default/<b>"
    engine.replace_services(
        [kbe_nat.ServicePort(name, [kbe_nat.Frontend("10.96.0.1", 80)], [backend])]
    )
    for port in range(1, 13):
        engine.process(opening("tcp", ("10.0.0.9", port), ("10.96.0.1", 80)), 0)
    explained = engine.explain(opening("tcp", ("10.0.0.9", 99), ("10.96.0.1", 80)), 0)
    lines = str(explained).splitlines()
    assert len(lines) == 1 + len(explained.steps) > 4
    assert repr(explained) == f"<Explanation {lines[0]}>"
    assert lines[0].startswith("translate: new, ")
    assert lines[1].split(maxsplit=1) == ["packet", "tcp 10.0.0.9:99 to 10.96.0.1:80, 40 bytes"]
    html = explained._repr_html_()
    assert '<th style="text-align: left">checked</th>' in html
    assert html.count("<tr>") == 1 + len(explained.steps)
    assert "default/&lt;b&gt;" in html and "<b>" not in html
    table = engine.flows_table()._repr_html_()
    assert "&lt;FlowTable: 12 flows&gt;" in table
    assert table.count("<tr>") == 1 + 10, "a head and the first ten"
    assert ">SYN_SENT<" in table and ">10.96.0.1<" in table and ">false<" in table
