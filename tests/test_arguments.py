"""Every argument of every native function, from the stub: a wrong value is an error that names the
argument, the value, and what is accepted.
"""

import ast
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kbe_nat
from kbe_nat import _native
from kbe_nat import packets as wire
from kbe_nat.packets import Packet, crc32c, opening

ROOT = Path(__file__).parent.parent
STUB = ast.parse((ROOT / "python/kbe_nat/_native.pyi").read_text())
CAPTURE = str(ROOT / "examples/traffic.pcap")
PACKET = opening("tcp", ("10.0.0.9", 4000), ("10.96.0.1", 80))

FREE = {"Engine.flows_table.requested_schema", "FlowTable.__arrow_c_stream__.requested_schema"}
"""Arguments that may be anything."""
OBJECTS = {"Loop.queue", "LabCell.strategy", "Assignment.strategy"}
"""Objects of a program, of which the methods are asked for later."""


class Parameter(NamedTuple):
    function: str
    name: str
    annotation: str
    has_default: bool

    def __str__(self) -> str:
        return f"{self.function}.{self.name}"


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """The native functions, methods, and classes that can be called, by their names."""
    for node in STUB.body:
        if getattr(node, "name", "_").startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name != "__eq__":
                    is_class = member.name == "__new__"
                    yield node.name if is_class else f"{node.name}.{member.name}", member


def parameters() -> list[Parameter]:
    return [
        Parameter(function, argument.arg, ast.unparse(argument.annotation), default is not None)
        for function, node in functions()
        for argument, default in with_defaults(node.args)
        if argument.annotation is not None
    ]


def with_defaults(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    missing = [None] * (len(arguments.args) - len(arguments.defaults))
    yield from zip(arguments.args, [*missing, *arguments.defaults], strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def service() -> kbe_nat.ServicePort:
    frontend, backend = kbe_nat.Frontend("10.96.0.1", 80), kbe_nat.Backend("10.0.0.1", 80)
    return kbe_nat.ServicePort("default/web", [frontend], [backend])


def engine() -> kbe_nat.Engine:
    """An engine with a connection that was answered."""
    result = kbe_nat.Engine(seed=1)
    result.replace_services([service()])
    result.process(PACKET, 0)
    answer = Packet("tcp", ("10.0.0.1", 80), ("10.0.0.9", 4000), "SA", acknowledgement=1)
    result.process(bytes(answer), 1_000_000)
    return result


class Lines:
    """As arrays of numpy, it has several."""

    def __repr__(self) -> str:
        return "<a,\n    b>"


def connects() -> kbe_nat.ConnectTimes:
    times = engine().stats().services[0].connects
    assert times is not None
    return times


def cell() -> _native.LabCell:
    raise kbe_nat.KbeNatError("the lab's own tests make cells")


def cache_sync() -> _native.CacheSync:
    cache = _native.FlowCache()
    return _native.CacheSync(engine(), cache, max_flows=16, socket_buffer=65536)


QUEUES = count(64_123)
INSTANCES: dict[str, Callable[[], Any]] = {
    "Assignment": lambda: _native.Assignment(b'{"name": "random"}', 1, None),
    "BackendIdMap": lambda: _native.BackendIdMap(0xFF),
    "CacheSync": cache_sync,
    "CaptureReader": lambda: _native.CaptureReader(CAPTURE),
    "CaptureWriter": lambda: _native.CaptureWriter("/dev/null", _native.CaptureReader(CAPTURE)),
    "ConnectTimes": connects,
    "ConntrackEvents": lambda: _native.ConntrackEvents(socket_buffer=65536),
    "ConntrackSync": lambda: _native.ConntrackSync(engine(), socket_buffer=65536),
    "Decision": lambda: engine().decisions()[0],
    "Engine": engine,
    "FlowCache": lambda: _native.FlowCache(),
    "HeldFlows": lambda: _native.HeldFlows("127.0.0.1", 9, 1, 0.0),
    "LabCell": cell,
    "NftRule": lambda: _native.NftRule,
    "NftTables": _native.NftTables,
    "ProtobufFrames": _native.ProtobufFrames,
    "RawQueue": lambda: _native.RawQueue(
        next(QUEUES), max_length=1, copy_range=100, gso=False, socket_buffer=65536
    ),
    "Transaction": _native.Transaction,
}
RIGHT: dict[str, Any] = {
    "AnswerWatch": None,
    "BackendIdMap | None": None,
    "CaptureBatch": lambda: _native.CaptureReader(CAPTURE).read_batch(1, 0),
    "CaptureReader": lambda: _native.CaptureReader(CAPTURE),
    "Engine": engine,
    "FlowCache": lambda: _native.FlowCache(),
    "Iterable[tuple[tuple[_Address, int], int]]": [(("10.0.0.1", 80), 1)],
    "NftElements": lambda: _native.NftElements(4, 0, bytes(4)),
    "NftRule": lambda: _native.NftRule.queue(0, 1, bypass=True, fanout=False, native=True),
    "NftTable": lambda: _native.NftTable(4, "none"),
    "ServicePort": service,
    "Timeouts": kbe_nat.Timeouts,
    "Transaction": _native.Transaction,
    "bool": False,
    "bytes": b"",
    "float": 0.5,
    "int": 4,
    "object": None,
    "str": "tcp",
}
BY_NAME: dict[str, Any] = {
    "address": "10.0.0.1",
    "addresses": ["10.0.0.1"],
    "answer": "icmp",
    "backend": ("10.0.0.1", 80),
    "client": "10.0.0.9",
    "keys": [1],
    "packet": PACKET,
    "path": CAPTURE,
    "verdict": "accept",
}


WORDS = {
    "words.Allocation": "random",
    "words.FrontendKind": "cluster-ip",
    "words.InvalidTcp": "drop",
    "words.Mapping": "endpoint-dependent",
    "words.Midstream": "drop",
    "words.Mode": "iptables",
    "words.Offloaded": "pass",
    "words.Protocol": "tcp",
    "words.UnknownPort": "drop",
    "_Strategy": "rr",
}


def right(parameter: Parameter) -> Any:
    """A value that this parameter can have."""
    _, name, annotation, _ = parameter
    if name in BY_NAME:
        value = BY_NAME[name]
    elif annotation.endswith("| None"):
        value = None
    elif annotation == "tuple[_Address, int]":
        value = ("10.0.0.1", 80)
    elif annotation.startswith("tuple"):
        value = (1,) * annotation.count("int")
    elif annotation.startswith(("Sequence", "list")):
        value = []
    elif annotation == "_Buffer | Sequence[_Buffer]":
        value = [bytearray(PACKET)]
    elif "Buffer" in annotation:
        value = b""
    else:
        value = WORDS.get(annotation) or RIGHT[annotation]
    return value() if callable(value) else value


NUMBERS = (-1, 2**64, -(2**80), 10**5000, 1.5, "80", b"80", True, False)
WRONG: dict[str, tuple[Any, ...]] = {
    "int": NUMBERS,
    "float": (-1, math.nan, math.inf, 10**400, "1", True, False),
    "bool": (5, "yes"),
    "tuple": (5, (1,), "ab", "abcd"),
    "Sequence": (5, "ab", b"ab", [object], [None]),
    "text": (5, b"a", 1.5),
    "other": (5, "a b"),
}


def wrong(parameter: Parameter) -> Iterator[Any]:
    """Values that this parameter cannot have."""
    plain = parameter.annotation.removesuffix(" | None")
    if not parameter.annotation.endswith("| None"):
        yield None
    if plain in ("int", "float", "bool"):
        yield from WRONG[plain]
    elif plain.startswith("tuple["):
        yield from WRONG["tuple"]
        count = plain.count(",") + 1
        if plain == f"tuple[{', '.join(['int'] * count)}]":
            for index in range(count):
                for value in NUMBERS:
                    yield tuple(value if n == index else 1 for n in range(count))
    elif plain.startswith(("Sequence", "list", "Iterable")):
        is_buffer = "Buffer" in plain
        yield from (5, "ab") if is_buffer else WRONG["Sequence"]
        if plain.startswith("Sequence[int]"):
            yield from ([value] for value in NUMBERS)
    elif parameter.function == "Engine.process_batch" and parameter.name == "packets":
        yield from (5, "ab", [b"a"], [5])
    elif "Buffer" in plain or plain in ("bytes", "_Packet"):
        yield from (5, "text", [b"a"])
    elif plain == "str" and parameter.name == "path":
        yield from (5, 1.5)
    elif plain[0].isupper() and hasattr(_native, plain):
        yield from WRONG["other"]
    else:
        yield from WRONG["text"]


def called(parameter: Parameter) -> Callable[[Any], object]:
    """The function with right values but for this parameter's."""
    owner, _, method = parameter.function.partition(".")
    if method:
        try:
            function = getattr(INSTANCES[owner](), method)
        except kbe_nat.KbeNatError as error:
            pytest.skip(f"{owner}: {error}")
    else:
        function = getattr(_native, owner)
    others = {
        other.name: right(other)
        for other in parameters()
        if other.function == parameter.function
        and other.name != parameter.name
        and not other.has_default
    }
    return lambda value: function(**others, **{parameter.name: value})


PARAMETERS = [parameter for parameter in parameters() if str(parameter) not in FREE | OBJECTS]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=str)
def test_an_error_names_argument_value_and_what_is_accepted(parameter: Parameter) -> None:
    call = called(parameter)
    for value in wrong(parameter):
        with pytest.raises((kbe_nat.ArgumentError, TypeError)) as raised:
            call(value)
        message = str(raised.value)
        assert message.startswith((f"{parameter.name} is ", f"{parameter.name}[")), message
        assert ", not " in message, message
        shown = [value, *(value if isinstance(value, list | tuple) else ())]
        assert any(message.endswith(f", not {show(item)}") for item in shown), message
        # One line: no note of the binding's library stands behind it.
        assert not vars(raised.value)


def test_an_error_takes_notes_of_the_program() -> None:
    with pytest.raises(kbe_nat.ArgumentError) as raised:
        kbe_nat.Backend("10.0.0.1", 70_000)
    raised.value.add_note("in the third row")
    assert raised.value.__notes__ == ["in the third row"]


def show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "<<class 'int'>>"
    return text if len(text) <= 80 else f"{text[:80]}..."


def test_none_is_left_out() -> None:
    names = {str(parameter) for parameter in PARAMETERS}
    assert {
        "Backend.port",
        "Backend.address",
        "Engine.process.now",
        "KernelQueue.number",
        "reject.packet",
    } <= names
    assert len(names) > 180


ADDRESSES = [parameter for parameter in PARAMETERS if "_Address" in parameter.annotation]
NETWORKS = [parameter for parameter in PARAMETERS if "_Network" in parameter.annotation]
SHAPES: dict[str, Callable[[Any], Any]] = {
    "_Address": lambda address: address,
    "Sequence[_Address]": lambda address: [address],
    "_Network": lambda network: network,
    "Sequence[_Network]": lambda network: [network],
    "Sequence[tuple[_Address, int]]": lambda address: [(address, 80)],
    "Sequence[tuple[str, _Address, int]]": lambda address: [("tcp", address, 80)],
    "Iterable[tuple[tuple[_Address, int], int]]": lambda address: [((address, 80), 1)],
    "tuple[_Address, int]": lambda address: (address, 80),
    "Iterable[tuple[str, tuple[_Address, int], tuple[_Address, int]]]": lambda address: [
        ("tcp", (address, 80), (address, 81))
    ],
}
SENDING = ("HeldConnections", "HeldFlows", "traffic_")
"""Clients of traffic, which would send some."""


@pytest.mark.parametrize(
    "parameter",
    [each for each in ADDRESSES if not each.function.startswith(SENDING)],
    ids=str,
)
def test_addresses_of_ipaddress_are_taken(parameter: Parameter) -> None:
    shape = SHAPES[parameter.annotation.removesuffix(" | None")]
    call = called(parameter)
    for text in ("10.0.0.1", "fd00::1"):
        call(shape(ip_address(text)))
    with pytest.raises((kbe_nat.ArgumentError, TypeError), match=r"10\.0\.0\.0/8"):
        call(shape(ip_network("10.0.0.0/8")))


@pytest.mark.parametrize("parameter", NETWORKS, ids=str)
def test_networks_of_ipaddress_are_taken(parameter: Parameter) -> None:
    shape = SHAPES[parameter.annotation.removesuffix(" | None")]
    if parameter.function == "Snat":
        networks = kbe_nat.Snat(
            [], allocation="deterministic", clients=shape(ip_network("10.0.0.0/8"))
        )
        assert networks.clients == ["10.0.0.0/8"]
        return
    call = called(parameter)
    for network in ("10.0.0.0/8", "fd00::/8"):
        call(shape(ip_network(network)))
        call(shape(ip_network(network)[1]))


def test_objects_of_ipaddress_mean_what_their_text_means() -> None:
    assert kbe_nat.Backend(ip_address("fd00::1"), 80) == kbe_nat.Backend("fd00::1", 80)
    assert kbe_nat.Frontend(ip_address("10.0.0.1"), 80) == kbe_nat.Frontend("10.0.0.1", 80)
    assert len(list(engine().flows(source=ip_address("10.0.0.9")))) == 1
    assert not list(engine().flows(source=ip_address("10.0.0.8")))


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"source": "10.0.0.0/24"}, 1),
        ({"source": "10.0.0.0/29"}, 0),
        ({"source": ip_network("10.0.0.8/29")}, 1),
        ({"source": "fd00::/8"}, 0),
        ({"destination": "10.96.0.0/12"}, 1),
        ({"backend": "10.96.0.0/12"}, 0),
    ],
)
def test_filters_take_ranges(filters: dict[str, Any], count: int) -> None:
    own = engine()
    assert len(list(own.flows(**filters))) == len(own.flows_table(**filters)) == count
    assert own.delete_flows(**filters) == count
    if "source" in filters:
        assert len(own.decisions(client=filters["source"])) == count
    end = (ip_address("10.0.0.9"), 4000)
    assert Packet("tcp", end, ("10.96.0.1", 80), "S") == Packet.parse(PACKET)  # type: ignore[arg-type]


def test_an_address_with_a_zone_is_none() -> None:
    with pytest.raises(kbe_nat.ArgumentError, match="fe80::1%eth0"):
        kbe_nat.Backend(ip_address("fe80::1%eth0"), 80)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kbe_nat.Backend("10.0.0.1", 70_000),
            "port is a whole number from 1 to 65535, not 70000",
        ),
        (
            lambda: kbe_nat.Frontend("10.0.0.1", 80, "nodeport"),  # type: ignore[arg-type]
            "kind is 'cluster-ip', 'external-ip', 'load-balancer' or 'node-port', not 'nodeport'",
        ),
        (
            lambda: kbe_nat.Snat(["10.0.0.1"], ports=(1, 65_536)),
            "ports[1] is a whole number from 0 to 65535, not 65536",
        ),
        (
            lambda: kbe_nat.Limits(max_flows=0),
            "max_flows is a whole number from 1 to 4294967295, not 0",
        ),
        (
            lambda: kbe_nat.Timeouts(udp=-1),
            "udp is a number from 0 to 31536000, not -1",
        ),
        (
            lambda: engine().flows(state="FOO"),  # type: ignore[arg-type]
            "state is 'SYN_SENT', 'SYN_RECV', 'ESTABLISHED', 'FIN_WAIT', 'CLOSE_WAIT', 'LAST_ACK', "
            "'TIME_WAIT', 'CLOSE', 'SYN_SENT2', 'CLOSED', 'COOKIE_WAIT', 'COOKIE_ECHOED', "
            "'SHUTDOWN_SENT', 'SHUTDOWN_RECD' or 'SHUTDOWN_ACK_SENT', not 'FOO'",
        ),
        (
            lambda: kbe_nat.Backend("10.0.0.1", 80, weight=10**9),
            "weight is a whole number from 0 to 65535, not 1000000000",
        ),
        (
            lambda: kbe_nat.Backend("10.0.0.1", "80"),  # type: ignore[arg-type]
            "port is a whole number from 1 to 65535, not '80'",
        ),
        (
            lambda: kbe_nat.Timeouts(ump=1),
            f'no timeout is named "ump"; there are {", ".join(kbe_nat.TIMEOUTS)}',
        ),
        (
            lambda: engine().delete_flows(source="10.0.0.0/33"),
            "source is an IP address, or a range of them such as '10.0.0.0/8', not '10.0.0.0/33'",
        ),
        (
            lambda: port([("fd00::1", 80)], [("127.0.0.1", 80)]),
            "service port default/web is of IPv6, and 127.0.0.1 is not: it has one family",
        ),
        (
            lambda: kbe_nat.Snat(["192.0.2.1", "fd00::1", "192.0.2.2"]),
            "addresses are at most one of each family, and 192.0.2.1 and 192.0.2.2 are of one",
        ),
        (
            lambda: kbe_nat.Loop(engine(), 5),
            "queue has the methods of a PacketQueue, and 5 has no receive",
        ),
        (
            lambda: engine().end_flows([("tcp", "10.0.0.1:1", ("10.0.0.2", 2))]),  # type: ignore[list-item]
            "flows[0][1] is a tuple of address and port, not '10.0.0.1:1'",
        ),
        (
            lambda: kbe_nat.ServicePort("a/b", [], [], affinity_seconds=0),
            "affinity_seconds is a whole number from 1 to 4294967295, not 0",
        ),
        (
            lambda: Packet("udp", ("10.0.0.1", 1), ("10.0.0.2", 2), "S"),
            "flags are of tcp, and the packet is of udp",
        ),
        (
            lambda: crc32c("x"),  # type: ignore[arg-type]
            "content is bytes, or a buffer of them, not 'x'",
        ),
        (
            lambda: wire.show("fd00::1"),  # type: ignore[arg-type]
            "end is a tuple of address and port, not 'fd00::1'",
        ),
        (lambda: _native.NftTable(5, "t"), "family is 4 or 6, not 5"),
        (lambda: kbe_nat.ServicePort("", [], []), "name is that of a service port, not ''"),
        (
            lambda: kbe_nat.ServicePort("a/b", [], [], protocol="icmp"),  # type: ignore[arg-type]
            "protocol is 'tcp', 'udp' or 'sctp', not 'icmp'",
        ),
        (
            lambda: engine().process_batch(bytearray(PACKET), 0),
            "packets is one buffer: give offsets, or a sequence of buffers",
        ),
        (
            lambda: engine().process_batch([b"a"], 0),
            "packets[0] is a writable buffer, such as bytearray(packet), for it is rewritten in "
            "place, not b'a'",
        ),
        (lambda: connects().quantile(1.5), "share is a number from 0 to 1, not 1.5"),
        (
            lambda: kbe_nat.Loop(5, None),  # type: ignore[arg-type]
            "engine is an Engine, not 5",
        ),
        (
            lambda: engine().process(Lines(), 0),  # type: ignore[arg-type]
            "packet is bytes, or a buffer of them, not <a, b>",
        ),
        (
            lambda: kbe_nat.NodeView(pod_ranges=["10.0.0.0/33"]),
            "pod_ranges[0] is an IP address, or a range of them such as '10.0.0.0/8', not "
            "'10.0.0.0/33'",
        ),
    ],
)
def test_the_words_of_an_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises((kbe_nat.ArgumentError, TypeError)) as raised:
        call()
    assert str(raised.value) == message


def port(
    frontends: list[tuple[str, int]],
    cluster: list[tuple[str, int]],
    local: Sequence[tuple[str, int]] = (),
    *,
    validate: bool = True,
) -> kbe_nat.ServicePort:
    """A service port at these addresses, with these backends."""
    return kbe_nat.ServicePort(
        "default/web",
        [kbe_nat.Frontend(*frontend) for frontend in frontends],
        [kbe_nat.Backend(*backend) for backend in cluster],
        local_backends=[kbe_nat.Backend(*backend) for backend in local],
        validate=validate,
    )


VIP, POD = ("10.96.0.1", 80), ("10.0.0.1", 80)
CONTRADICTIONS = [
    (
        ([VIP, ("10.96.0.1", 81), VIP], [POD]),
        "frontends[2] is 10.96.0.1:80, as frontends[0] is: one of them is enough",
    ),
    (
        ([VIP], [POD, POD]),
        "cluster_backends[1] is 10.0.0.1:80, as cluster_backends[0] is: one of them is enough; "
        "its weight says how much it gets",
    ),
    (
        ([("fd00::1", 80)], [], [("fd00::2", 80), ("fd00::2", 80)]),
        "local_backends[1] is [fd00::2]:80, as local_backends[0] is: one of them is enough; "
        "its weight says how much it gets",
    ),
    (
        ([VIP], [POD, VIP]),
        "cluster_backends[1] is 10.96.0.1:80, which is a frontend itself: packets would come back",
    ),
    (
        ([VIP], [], [("127.0.0.1", 80)]),
        "local_backends[0] is 127.0.0.1:80: the kernel sends nothing to loopback that came for "
        "10.96.0.1",
    ),
]


@pytest.mark.parametrize(("parts", "reason"), CONTRADICTIONS, ids=lambda value: str(value)[:20])
def test_a_service_port_that_contradicts_itself(parts: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(kbe_nat.ArgumentError) as raised:
        port(*parts)
    assert str(raised.value) == f"service port default/web: {reason}"
    # As Kubernetes' objects may have it: the API server takes it all.
    allowed = port(*parts, validate=False)
    assert pickle.loads(pickle.dumps(allowed)) == allowed
    kbe_nat.Engine(seed=1).replace_services([allowed])


def test_what_only_looks_like_a_contradiction() -> None:
    port([VIP], [("10.96.0.1", 81)], [POD])
    port([VIP], [POD], [POD])
    port([("127.0.0.2", 80)], [("127.0.0.1", 80)])
    both = [kbe_nat.Frontend(*VIP, "external-ip"), kbe_nat.Frontend(*VIP, "load-balancer")]
    kbe_nat.ServicePort("default/web", both, [kbe_nat.Backend(*POD)])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "no host's"),
        ("0.1.2.3", "no host's"),
        ("::", "no host's"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "the broadcast address"),
    ],
)
def test_a_backend_is_one_host(address: str, reason: str) -> None:
    with pytest.raises(kbe_nat.ArgumentError) as raised:
        kbe_nat.Backend(address, 80)
    assert (
        str(raised.value)
        == f"address is the address of one host, not {address!r}: that is {reason}"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_frontend_has_an_address(address: str) -> None:
    with pytest.raises(kbe_nat.ArgumentError) as raised:
        kbe_nat.Frontend(address, 80)
    assert str(raised.value) == f"address is an address that packets are sent to, not {address!r}"


@pytest.mark.parametrize("part", [kbe_nat.Backend, kbe_nat.Frontend])
def test_no_port_is_0(part: Callable[[str, int], object]) -> None:
    with pytest.raises(kbe_nat.ArgumentError) as raised:
        part("10.0.0.1", 0)
    assert str(raised.value) == "port is a whole number from 1 to 65535, not 0"


def test_a_packet_is_taken_as_it_is() -> None:
    packet = Packet("tcp", ("10.0.0.9", 4000), ("10.96.0.1", 80), "S")
    assert engine().process(packet, 0) == engine().process(bytes(packet), 0)
    assert engine().explain(packet, 0) == engine().explain(bytes(packet), 0)
    assert kbe_nat.reject(packet) == kbe_nat.reject(bytes(packet))
    with pytest.raises(TypeError, match="packet is bytes, or a buffer of them, not <class"):
        engine().process(Packet, 0)  # type: ignore[arg-type]
