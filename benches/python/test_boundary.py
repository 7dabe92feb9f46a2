"""Python's costs: a batch, the tables of a large cluster, one changed endpoint; and the reference
NAT.
"""

from array import array

import pytest
from msgspec import structs
from pytest_benchmark.fixture import BenchmarkFixture

import kbe_nat
import kbe_nat.reference.nat as reference
from kbe_nat.engine_tables import EngineTables, native_port, native_tables
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner, plan

SERVICES, ENDPOINTS = 10_000, 15
BATCH = 64


def datagram(number: int) -> bytes:
    """A UDP datagram of 64 bytes from its own client port to the frontend."""
    ports = (1024 + number).to_bytes(2) + (80).to_bytes(2)
    header = bytearray.fromhex("4500004000000000401100000a000001ac1ee4ff")
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, 20, 2))
    header[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)
    return bytes(header) + ports + (44).to_bytes(2) + bytes.fromhex("1234") + bytes(36)


def frontend_engine() -> kbe_nat.Engine:
    engine = kbe_nat.Engine(seed=1)
    backends = [kbe_nat.Backend(f"172.17.0.{3 + n}", 9876) for n in range(16)]
    frontends = [kbe_nat.Frontend("172.30.228.255", 80)]
    engine.replace_services(
        [kbe_nat.ServicePort("default/bench", frontends, backends, protocol="udp")]
    )
    return engine


def cluster() -> Snapshot:
    """10,000 Services with 150,000 endpoints, as a source yields them."""

    def address(first: int, number: int) -> str:
        return f"{first}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def endpoints(number: int) -> tuple[Endpoint, ...]:
        first = number * ENDPOINTS
        return tuple(Endpoint(address(10, n), "there") for n in range(first, first + ENDPOINTS))

    services = tuple(
        Service(
            "default", f"service-{number}", (address(172, number),), (ServicePort("", "tcp", 80),)
        )
        for number in range(SERVICES)
    )
    slices = {
        service.key: (
            EndpointSlice(
                f"{service.name}-a", Family.IPV4, (SlicePort("", "tcp", 8080),), endpoints(number)
            ),
        )
        for number, service in enumerate(services)
    }
    return Snapshot(1, services, slices)


@pytest.mark.parametrize("size", [1, BATCH, 1024])
def test_batch(benchmark: BenchmarkFixture, size: int) -> None:
    """`process_batch` of known flows, all of the cache: the boundary's share is what falls with the
    size.
    """
    engine = frontend_engine()
    original = b"".join(datagram(number) for number in range(size))
    offsets = array("Q", range(0, 64 * size + 1, 64))
    packets = bytearray(original)

    def process() -> bytes:
        return engine.process_batch(packets, 1, offsets=offsets)

    def reset() -> None:
        packets[:] = original

    process()
    assert engine.stats().flows == size
    benchmark.extra_info["packets"] = size
    benchmark.pedantic(process, setup=reset, rounds=20_000 if size < 1024 else 2000)
    assert engine.stats().causes["established"] >= size


def test_one(benchmark: BenchmarkFixture) -> None:
    """`process` of one packet, with its `Verdict`."""
    engine, packet = frontend_engine(), datagram(1)
    benchmark.extra_info["packets"] = 1
    assert benchmark(lambda: engine.process(packet, 1)).action == "translate"


def test_replace_all_services(benchmark: BenchmarkFixture) -> None:
    """A large cluster, from parsed objects to serving: policy, objects, balancers, tables."""
    snapshot = cluster()

    def cold() -> None:
        kbe_nat.Engine(seed=1).replace_services(*native_tables(plan(snapshot)))

    benchmark.pedantic(cold, rounds=5)


@pytest.mark.parametrize("part", ["policy", "tables", "engine"])
def test_change_one_endpoint(benchmark: BenchmarkFixture, part: str) -> None:
    """One endpoint of 150,000 goes: policy plans, native objects are built, the engine changes."""
    engine, planner = kbe_nat.Engine(seed=1), Planner()
    snapshot, options = cluster(), Options()
    key = snapshot.services[77].key
    [whole] = snapshot.slices[key]
    fewer = structs.replace(whole, endpoints=whole.endpoints[1:])
    snapshots = [snapshot, structs.replace(snapshot, slices={**snapshot.slices, key: (fewer,)})]
    tables = EngineTables(engine)
    tables.rebuild(planner.update(snapshot, options).plan)
    # From the second to the first, and the other way round.
    deltas = [planner.update(each, options, {key}) for each in (snapshots[1], snapshot)][::-1]
    ports = [[native_port(new.port, options.mode) for _, new in delta.changed] for delta in deltas]
    turn = [0]

    def change() -> None:
        turn[0] ^= 1
        if part == "policy":
            planner.update(snapshots[turn[0]], options, {key})
        elif part == "tables":
            tables.apply(deltas[turn[0]])
        else:
            engine.update_services(ports[turn[0]])

    benchmark(change)


@pytest.mark.parametrize("flows", [1000, 100_000])
def test_reference(benchmark: BenchmarkFixture, flows: int) -> None:
    """A packet of a known flow in plain Python."""
    engine = reference.Reference(max_flows=flows)
    engine.replace_services(
        [
            reference.ServicePort(
                "default/bench",
                [reference.Frontend("172.30.228.255", 80)],
                [reference.Backend(f"172.17.0.{3 + n}", 9876) for n in range(16)],
                protocol="udp",
                strategy="rr",
            )
        ]
    )
    packets = [client(datagram(number % 60_000), number // 60_000) for number in range(flows)]
    for packet in packets:
        engine.process(packet, 0)
    assert len(list(engine.flows())) == flows
    order = iter(range(1 << 60))

    def process() -> object:
        return engine.process(packets[next(order) * 7919 % flows], 0)

    benchmark.extra_info["packets"] = 1
    benchmark.pedantic(process, rounds=200, iterations=20)


def client(packet: bytes, number: int) -> bytes:
    """The same from another address; the checksum is taken back by as much."""
    checksum = int.from_bytes(packet[10:12]) - number
    return packet[:10] + checksum.to_bytes(2) + packet[12:15] + bytes([1 + number]) + packet[16:]
