"""A session: an engine with a clock, expiry, refusals and held fragments."""

import copy
import pickle

import pytest

import kbe_nat
from kbe_nat.packets import Packet
from kbe_nat.session import MAX_RELEASED

CLIENT, VIP, CLOSED = ("10.0.0.9", 4000), ("10.96.0.1", 80), ("10.96.0.2", 80)


class Clock:
    """Nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


def session(clock: Clock, **settings: object) -> kbe_nat.Session:
    engine = kbe_nat.Engine(seed=1)
    backend = kbe_nat.Backend("10.244.0.3", 8080)
    ports = [("web", VIP, [backend], "tcp"), ("closed", CLOSED, [], "tcp")]
    engine.replace_services(
        [
            kbe_nat.ServicePort(f"default/{name}", [kbe_nat.Frontend(*end)], backends)
            for name, end, backends, _ in ports
        ]
    )
    engine.update_service(
        kbe_nat.ServicePort("default/dns", [kbe_nat.Frontend(*VIP)], [backend], protocol="udp")
    )
    return kbe_nat.Session(engine, clock=clock, **settings)  # type: ignore[arg-type]


def syn(destination: tuple[str, int]) -> bytes:
    return bytes(Packet("tcp", CLIENT, destination, "S"))


def test_packets_are_translated_there_and_back() -> None:
    served = session(Clock())
    forth = served.process(syn(VIP))
    assert forth.packet is not None and forth.action == "translate"
    assert Packet.parse(forth.packet).destination == ("10.244.0.3", 8080)
    back = served.process(bytes(Packet("tcp", ("10.244.0.3", 8080), CLIENT, "SA")))
    assert back.packet is not None
    assert Packet.parse(back.packet).source == VIP
    other = served.process(syn(("192.0.2.1", 80)))
    assert (other.action, other.packet) == ("pass", syn(("192.0.2.1", 80)))


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^engine is an Engine, not 3$"):
        kbe_nat.Session(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^clock is a function, not 3$"):
        kbe_nat.Session(kbe_nat.Engine(), clock=3)  # type: ignore[arg-type]
    with pytest.raises(kbe_nat.ArgumentError, match=r"^answer is 'icmp' or 'tcp-reset', not 'rst'"):
        kbe_nat.Session(kbe_nat.Engine(), answer="rst")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^packet is bytes, or a buffer of them, not 'text'$"):
        session(Clock()).process("text")  # type: ignore[arg-type]
    served = session(Clock())
    assert repr(served) == "<Session of <Engine: 3 service ports, 0 flows>: 0 fragments held>"


def test_refusals_are_answered() -> None:
    refused = session(Clock()).process(syn(CLOSED))
    assert (refused.action, refused.packet) == ("reject", None)
    assert refused.answer is not None
    answer = Packet.parse(refused.answer)
    assert (answer.protocol, answer.type, answer.code) == ("icmp", 3, 3)
    assert answer.destination[0] == CLIENT[0]
    refused = session(Clock(), answer="tcp-reset").process(syn(CLOSED))
    assert refused.answer is not None
    assert Packet.parse(refused.answer).flags == "RA"


def test_flows_expire_by_the_clock() -> None:
    clock = Clock()
    served = session(clock)
    served.process(syn(VIP))
    assert served.engine.stats().flows == 1
    clock.now += 3600 * 10**9
    served.process(syn(("192.0.2.1", 80)))
    assert served.engine.stats().flows == 0


def test_held_fragments_come_back_with_their_context() -> None:
    served = session(Clock())
    whole = bytes(Packet("udp", CLIENT, VIP, payload=bytes(range(64)), identification=7))
    first, later = fragments(whole, 40)
    held = served.process(later, context="later")
    assert (held.action, held.packet) == ("hold", None)
    assert served.released() == []
    assert served.process(first).action == "translate"
    [(context, outcome)] = served.released()
    assert (context, outcome.action) == ("later", "translate")
    assert outcome.packet is not None and outcome.packet[16:20] == bytes([10, 244, 0, 3])
    assert served.released() == []


def test_fragments_that_nobody_asks_for_do_not_add_up() -> None:
    served = kbe_nat.Session(kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(max_fragments=8)))
    for number in range(MAX_RELEASED + 1000):
        whole = bytes(Packet("udp", CLIENT, VIP, payload=bytes(64), identification=number))
        assert served.process(fragments(whole, 40)[1], context=number).action == "hold"
    assert repr(served).endswith(": 8 fragments held>")
    contexts = [context for context, _ in served.released()]
    assert contexts == list(range(992, MAX_RELEASED + 992)), "the newest ones"
    assert served.released() == []


def test_an_outcome_tells_and_does_not_dump() -> None:
    shown = {
        repr(kbe_nat.Outcome("translate", "new", bytes(40), masquerade=True)),
        repr(kbe_nat.Outcome("reject", "no-endpoints", None, answer=bytes(56))),
        repr(kbe_nat.Outcome("hold", "fragment-held", None)),
        repr(kbe_nat.Outcome("translate", "", bytes(1500))),
    }
    assert shown == {
        "<Outcome translate: new, 40 bytes, masquerade>",
        "<Outcome reject: no-endpoints, an answer of 56 bytes>",
        "<Outcome hold: fragment-held>",
        "<Outcome translate, 1500 bytes>",
    }


def test_a_session_is_no_value() -> None:
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^Session cannot be pickled or copied: make another"):
            refused(session(Clock()))


def fragments(packet: bytes, size: int) -> tuple[bytes, bytes]:
    """The packet in two, as RFC 791 cuts it; their header checksums are left wrong."""

    def fragment(start: int, end: int, is_last: bool) -> bytes:
        word = (0 if is_last else 0x2000) | start >> 3
        header = bytearray(packet[:20])
        header[2:4], header[6:8] = (20 + end - start).to_bytes(2), word.to_bytes(2)
        return bytes(header) + packet[20 + start : 20 + end]

    return fragment(0, size, False), fragment(size, len(packet) - 20, True)


def test_an_unknown_answer_is_refused_at_once() -> None:
    with pytest.raises(kbe_nat.ArgumentError, match="answer is 'icmp' or 'tcp-reset', not 'rst'"):
        session(Clock(), answer="rst")


@pytest.mark.parametrize("now", [None, 1.5, -1, "1"])
def test_a_clock_that_gives_no_nanoseconds_is_named(now: object) -> None:
    session = kbe_nat.Session(kbe_nat.Engine(), clock=lambda: now)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError) as raised:
        session.process(b"")
    assert str(raised.value) == (f"clock gives nanoseconds, a whole number from 0 on, not {now!r}")
