"""`kbe-nat decisions`: decisions about first packets, by the engine, the socket and the command."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

import kbe_nat
from harness.full_engine import STATUS
from harness.verbs import Ran
from kbe_nat.client import ask, ask_rows
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.rows import DecisionAction, DecisionRow
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.daemon.verbs import Verbs
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.errors import ArgumentError, ControlError
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.rules.memory import Memory

SYN = bytes.fromhex(
    "45000028000100004006dda20a00020fac1ee4ffc000005000000000000000005002200032650000"
)
"""From 10.0.2.15:49152 to 172.30.228.255:80."""


def snapshot(*addresses: str, name: str = "web") -> Snapshot:
    key = ("default", name)
    endpoints = tuple(map(Endpoint, addresses))
    part = EndpointSlice(f"{name}-1", Family.IPV4, (SlicePort("", "tcp", 9876),), endpoints)
    service = Service(*key, ("172.30.228.255",), (ServicePort("", "tcp", 80),))
    return Snapshot(1, (service,), {key: (part,)})


@pytest.fixture
def controller() -> Controller:
    """It has served a connection, and refused one when the only endpoint had left."""
    engine = kbe_nat.Engine(seed=1)
    controller = Controller(
        engine, EveryPacket(Diversion((100, 100)), Memory()), lambda _: Options()
    )
    controller.apply(snapshot("10.0.0.1"))
    engine.process(SYN, time.monotonic_ns())
    engine.delete_flows()
    controller.apply(snapshot())
    engine.process(SYN, time.monotonic_ns())
    return controller


@pytest.fixture
def path(controller: Controller, tmp_path: Path) -> Iterator[Path]:
    verbs = Verbs(controller, Subscribers(controller.engine), lambda: STATUS)
    with ControlServer(tmp_path / "control.sock", verbs):
        yield tmp_path / "control.sock"


def test_the_engine_tells_names_and_endpoints_as_they_were(controller: Controller) -> None:
    controller.apply(snapshot("10.0.0.7", name="other"))
    served, refused = controller.engine.decisions()
    assert served.service == refused.service == "default/web"
    assert (served.action, served.cause, served.choice) == ("translate", "new", "random")
    assert (served.client, served.backend) == (("10.0.2.15", 49152), ("10.0.0.1", 9876))
    assert (served.endpoints(), served.endpoint_count) == (["10.0.0.1:9876"], 1)
    assert (refused.action, refused.cause, refused.backend) == ("reject", "no-endpoints", None)
    assert (refused.endpoints(), refused.endpoint_count) == ([], 0)
    assert refused.frontend == ("172.30.228.255", 80)
    assert served.generation < refused.generation
    assert 0 <= time.monotonic_ns() - refused.time < 60 * 10**9


def test_refusals_are_counted_by_service_and_cause(path: Path) -> None:
    (services,) = ask(path, "services", list[dict[str, object]])
    assert [row["refused"] for row in services] == [{"no-endpoints": 1}]


def test_looking_is_no_decision(controller: Controller) -> None:
    controller.engine.explain(SYN, time.monotonic_ns())
    assert len(controller.engine.decisions()) == 2


def test_wrong_filters_are_told(controller: Controller) -> None:
    with pytest.raises(ArgumentError, match="verdict is"):
        controller.engine.decisions(verdict="pass")  # type: ignore[arg-type]
    with pytest.raises(
        ArgumentError, match=r"client is an IP address, or a range of them .* not 'web'"
    ):
        controller.engine.decisions(client="web")
    with pytest.raises(
        ArgumentError, match="max_decisions is a whole number from 0 to 16777216, not"
    ):
        kbe_nat.Limits(max_decisions=2**24 + 1)


def test_the_number_of_decisions_is_set() -> None:
    for size in (0, 3):
        engine = kbe_nat.Engine(limits=kbe_nat.Limits(max_decisions=size))
        controller = Controller(
            engine, EveryPacket(Diversion((100, 100)), Memory()), lambda _: Options()
        )
        controller.apply(snapshot())
        for _ in range(5):
            engine.process(SYN, time.monotonic_ns())
        assert [each.sequence for each in engine.decisions()] == list(range(6 - size, 6))


@pytest.mark.parametrize(
    ("filters", "sequences"),
    [
        ({}, [1, 2]),
        ({"names": ["default/web"]}, [1, 2]),
        ({"names": ["web"], "namespace": "default"}, [1, 2]),
        ({"namespace": "default"}, [1, 2]),
        ({"namespace": "shop"}, []),
        ({"client": "10.0.2.15"}, [1, 2]),
        ({"client": "10.0.2.16"}, []),
        ({"verdict": "reject"}, [2]),
        ({"verdict": "translate"}, [1]),
        ({"verdict": "drop"}, []),
        ({"seconds": 3600}, [1, 2]),
        ({"limit": 1}, [2]),
        ({"limit": 0}, []),
    ],
)
def test_the_daemon_filters(path: Path, filters: dict[str, object], sequences: list[int]) -> None:
    rows = list(ask_rows(path, "decisions", DecisionRow, **filters))
    assert [row.sequence for row in rows] == sequences
    assert all(abs(row.time - time.time()) < 60 for row in rows)


def test_wrong_requests_are_told(path: Path) -> None:
    for wrong in ({"verdict": "pass"}, {"seconds": -1}, {"limit": -1}, {"client": "x"}):
        with pytest.raises(ControlError):
            list(ask(path, "decisions", list[DecisionRow], **wrong))


def test_new_decisions_are_followed(path: Path, controller: Controller) -> None:
    rows = ask_rows(path, "decisions", DecisionRow, limit=1, verdict="reject", is_followed=True)
    assert next(rows).sequence == 2
    Thread(target=controller.engine.process, args=(SYN, time.monotonic_ns())).start()
    assert next(rows).sequence == 3
    controller.engine.process(SYN, time.monotonic_ns())
    assert next(rows).sequence == 4


def test_the_command_prints_a_table_and_rows(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kbe = Ran(capsys)
    code, out, _ = kbe("decisions", "--socket", path, "--since", "5m")
    assert code == 0
    served, refused = out.splitlines()[-2:]
    assert "10.0.2.15:49152" in served and "10.0.0.1:9876" in served and "random" in served
    assert "reject:no-endpoints" in refused and "default/web" in refused
    code, out, _ = kbe("decisions", "--socket", path, "--verdict", "reject", "-o", "json")
    (row,) = json.loads(out)["items"]
    assert (code, row["verdict"], row["cause"]) == (0, DecisionAction.REJECT, "no-endpoints")
    assert (row["frontend"], row["backend"]) == ("172.30.228.255:80", None)
    code, out, _ = kbe("decisions", "--socket", path, "--limit", "1", "-o", "json")
    assert [row["sequence"] for row in json.loads(out)["items"]] == [2]
    code, out, _ = kbe("decisions", "--socket", path, "--verdict", "translate", "-o", "json")
    (row,) = json.loads(out)["items"]
    assert (row["client"], row["backend"]) == ("10.0.2.15:49152", "10.0.0.1:9876")


def test_a_wrong_duration_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = Ran(capsys)("decisions", "--socket", path, "--since", "soon")
    assert code == 2
    assert "--since" in err and "'soon' is no duration" in err
