"""The engine under sequences of all that can happen to it, and what holds after each step."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import kbe_nat
from harness import traffic
from harness.traffic import ACK, SYN, Talk
from kbe_nat.words import StrategyName

VIP, OTHER_VIP = "172.30.0.1", "172.30.0.2"
PODS = tuple(f"172.17.0.{last}" for last in (3, 4, 5, 6))
LIMITS: dict[str, int] = {"max_flows": 12, "max_flows_per_source": 8, "max_unassured": 8}
SECOND = 1_000_000_000

clients = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
sports = st.integers(2000, 2011)
vips = st.sampled_from([VIP, OTHER_VIP])
weights = st.lists(st.integers(0, 3), min_size=4, max_size=4)
Socket = tuple[str, int, str]


class Machine(RuleBasedStateMachine):
    """One engine, and what is known of it from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = SECOND
        self.served: dict[str, list[int]] = {}
        self.talks: dict[Socket, tuple[Talk, str]] = {}
        """Established connections with their backend; a backend has another port for each frontend.
        """

    @initialize(
        snat=st.booleans(),
        strategy=st.sampled_from(
            ["random", "rr", "wrr", "lc", "p2c", "mh", "sh", "ring", "bounded", "peak-ewma"]
        ),
    )
    def begin(self, snat: bool, strategy: StrategyName) -> None:
        """Serve one frontend."""
        self.settings: dict[str, Any] = {
            "limits": kbe_nat.Limits(**LIMITS),
            "midstream": "drop",
        }
        if snat:
            self.settings["snat"] = kbe_nat.Snat(["192.0.2.1"])
        self.masquerades = snat
        self.strategy = strategy
        self.engine = kbe_nat.Engine(seed=5, **self.settings)
        self.serve(VIP, [1, 1, 1, 1])

    @rule(vip=vips, weights=weights)
    def serve(self, vip: str, weights: list[int]) -> None:
        """Add a Service, or change weights; a weight of 0 drains."""
        self.served[vip] = weights
        self.replace()

    @rule()
    def take_away(self) -> None:
        """The second Service goes."""
        self.served.pop(OTHER_VIP, None)
        self.replace()

    def replace(self) -> None:
        """Hand over what is served."""
        services = [
            kbe_nat.ServicePort(
                f"ns/{vip}",
                [kbe_nat.Frontend(vip, 80)],
                [
                    kbe_nat.Backend(pod, self.port(vip), weight)
                    for pod, weight in zip(PODS, weights, strict=True)
                ],
                strategy=self.strategy,
                affinity_seconds=30 if vip == OTHER_VIP else None,
            )
            for vip, weights in self.served.items()
        ]
        self.engine.replace_services(services, kbe_nat.NodeView(masquerade_all=self.masquerades))

    def port(self, vip: str) -> int:
        """What the pods serve behind a frontend."""
        return 8080 if vip == VIP else 8081

    def send(self, packet: bytes) -> kbe_nat.Verdict:
        """The verdict on a packet, which `explain` must foretell."""
        told = self.engine.explain(packet, self.now)
        verdict = self.engine.process(packet, self.now, interface=0)
        assert (told.action, told.cause) == (verdict.action, verdict.cause)
        if verdict.action == "translate":
            assert verdict.packet is not None
            assert untouched(verdict.packet) == untouched(packet)
        return verdict

    @rule(client=clients, sport=sports, vip=vips, is_completed=st.booleans())
    def connect(self, client: str, sport: int, vip: str, is_completed: bool) -> None:
        """A SYN, and the rest of the handshake; or a SYN that nobody answers."""
        if (client, sport, vip) in self.talks:
            return
        talk = Talk()
        syn = talk.forward(sport, 80, SYN, b"", 0)
        verdict = self.send(traffic.ip(client, vip, traffic.TCP, syn))
        if vip not in self.served:
            assert verdict.cause == "not-ours"
            return
        if not any(self.served[vip]):
            assert verdict.action == "reject" or not verdict.is_new
        if verdict.packet is None or verdict.action != "translate" or not is_completed:
            return
        backend, port = traffic.addresses(verdict.packet)[1], traffic.ports(verdict.packet)[1]
        if verdict.is_new:
            assert self.served[vip][PODS.index(backend)] > 0, "a drained backend gets no new flow"
            assert port == self.port(vip)
        answer = talk.back(*self.turned_ports(verdict.packet), SYN | ACK, b"", 0)
        source, target = traffic.addresses(verdict.packet)
        back = self.send(traffic.ip(target, source, traffic.TCP, answer))
        if back.cause != "established" or back.packet is None:
            return
        assert traffic.addresses(back.packet) == (vip, client)
        assert traffic.ports(back.packet) == (80, sport)
        last = self.send(traffic.ip(client, vip, traffic.TCP, talk.forward(sport, 80, ACK, b"", 0)))
        if last.cause == "established":
            self.talks[client, sport, vip] = talk, backend

    def turned_ports(self, packet: bytes) -> tuple[int, int]:
        """The ports of an answer."""
        sport, dport = traffic.ports(packet)
        return dport, sport

    @rule(size=st.integers(0, 50))
    def talk(self, size: int) -> None:
        """Every established connection goes on, with the backend it had, and is answered through
        its frontend.
        """
        for (client, sport, vip), (talk, backend) in self.talks.items():
            segment = talk.forward(sport, 80, ACK, bytes(size), 0)
            verdict = self.send(traffic.ip(client, vip, traffic.TCP, segment))
            assert verdict.cause == "established", "no established connection is ever given up"
            assert verdict.packet is not None
            source, target = traffic.addresses(verdict.packet)
            assert target == backend
            # What is not acknowledged gives a connection five minutes only, as in the kernel.
            answer = talk.back(*self.turned_ports(verdict.packet), ACK, b"", 0)
            back = self.send(traffic.ip(target, source, traffic.TCP, answer))
            assert back.cause == "established"
            assert back.packet is not None
            assert (traffic.addresses(back.packet), traffic.ports(back.packet)) == (
                (vip, client),
                (80, sport),
            )

    @rule(count=st.integers(1, 30))
    def flood(self, count: int) -> None:
        """SYNs that nobody answers, from one source each."""
        for number in range(count):
            segment = traffic.tcp(1000, 80, SYN, number, 0)
            self.send(traffic.ip(f"10.9.{number}.1", VIP, traffic.TCP, segment))

    @rule(seconds=st.sampled_from([0.001, 1.0, 20.0, 130.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now += int(seconds * SECOND)
        self.engine.expire(self.now)

    @rule()
    def restart(self) -> None:
        """Another engine takes over from a checkpoint, all but what is not served any more."""
        before = [one for one in described(self.engine) if one[1][0] in self.served]
        self.talks = {key: known for key, known in self.talks.items() if key[2] in self.served}
        checkpoint = self.engine.checkpoint(self.now)
        self.engine = kbe_nat.Engine(seed=5, **self.settings)
        self.replace()
        assert self.engine.restore(checkpoint, self.now) == len(before)
        assert described(self.engine) == before

    @invariant()
    def flows_stay_within_their_limits_and_apart(self) -> None:
        """Limits hold; every flow is found by two tuples that no other has."""
        if not self.served:
            return
        flows = list(self.engine.flows())
        assert len(flows) <= LIMITS["max_flows"]
        assert sum(not flow.assured for flow in flows) <= LIMITS["max_unassured"]
        for client in {flow.source[0] for flow in flows}:
            assert sum(flow.source[0] == client for flow in flows) <= LIMITS["max_flows_per_source"]
        tuples = [(flow.source, flow.destination) for flow in flows]
        tuples += [(flow.reply_source, flow.reply_destination) for flow in flows]
        assert len(set(tuples)) == len(tuples)
        services = self.engine.stats().services
        over = sum(backend.over for service in services for backend in service.backends)
        assert sum(service.active for service in services) + over == len(flows)


def untouched(packet: bytes) -> bytes:
    """A TCP packet without addresses, ports and checksums."""
    segment = traffic.transport(packet)
    return packet[:10] + segment[4:16] + segment[18:]


def described(engine: kbe_nat.Engine) -> list[tuple[Any, ...]]:
    """All flows, without their ages."""
    return sorted(
        (
            one.source,
            one.destination,
            one.reply_source,
            one.reply_destination,
            one.state or "",
            one.packets,
        )
        for one in engine.flows()
    )


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50)
