"""The programs of the benchmarks run with tiny numbers and print well-formed rows; no times."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP

from benches import compare, encodings, replay
from benches.engine import MODES, SHAPES, Extent, Programs, measure, measure_strategies, summarise
from benches.harness import callgrind
from benches.harness.engine_page import UPDATE_FIELDS, Measures, page
from benches.harness.programs import COUNTED_PROCESSOR, build, build_yardstick, lines_of
from kbe_nat.model import Strategy

FLOWS = 600
TINY = Extent((FLOWS,), runs=1, rounds=2, counted=FLOWS, table=FLOWS)
needs_valgrind = pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is missing")


@pytest.fixture(scope="module")
def ours() -> Path:
    """As `cargo test` builds it: in seconds."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is missing")
    return build("flows", verb=("test",))


@pytest.fixture(scope="module")
def yardstick() -> Path:
    program = build_yardstick(COUNTED_PROCESSOR)
    if program is None:
        pytest.skip("no C compiler, or no x86-64")
    return program


@pytest.mark.parametrize(("protocol", "family"), SHAPES)
def test_every_shape_is_timed_beside_c(
    ours: Path, yardstick: Path, protocol: str, family: str
) -> None:
    rows = measure(Programs(ours, yardstick, None, False), protocol, family, FLOWS, TINY)
    assert [(row["protocol"], row["family"], row["mode"]) for row in rows] == [
        (protocol, family, mode) for mode in MODES
    ]
    for row in rows:
        assert row["flows"] == FLOWS
        assert min(row["ns"], row["c_ns"], row["new_ns"], row["c_new_ns"]) > 0
        assert 0 < row["ratio_p10"] <= row["ratio"] <= row["ratio_p90"]
        assert row["instructions"] is row["c_instructions"] is row["new_instructions"] is None


def test_without_the_yardstick_its_columns_are_empty(ours: Path) -> None:
    [row, _] = measure(Programs(ours, None, None, False), "tcp", "ipv6", FLOWS, TINY)
    assert row["ns"] > 0
    assert row["c_ns"] is row["c_new_ns"] is row["ratio"] is row["ratio_p10"] is None
    assert "| tcp | ipv6 | 600 | one |" in page(Measures(packets=[row]))


@needs_valgrind
@pytest.mark.parametrize(("protocol", "family"), SHAPES)
def test_instructions_of_c_are_counted(yardstick: Path, protocol: str, family: str) -> None:
    phases = callgrind.count(yardstick, "count", protocol, family, str(FLOWS))
    counts = {(row["phase"], row["mode"]): row["instructions"] for row in phases}
    # The loop of one packet: neither start-up nor the making of packets is in it.
    assert all(60 < counts["known", mode] < 130 for mode in MODES)
    assert counts["warm", "one"] == pytest.approx(counts["known", "one"], rel=0.02)


@needs_valgrind
def test_instructions_of_ours_are_counted(ours: Path) -> None:
    phases = callgrind.count(ours, "count", "tcp", "ipv4", str(FLOWS))
    counts = {(row["phase"], row["mode"]): row["instructions"] for row in phases}
    assert counts["fill", "batch64"] == 0, "only functions that are measured are counted"
    assert all(0 < counts["known", mode] < counts["new", mode] for mode in MODES)


def test_new_flows_of_every_strategy_are_timed(ours: Path) -> None:
    rows = measure_strategies(Programs(ours, None, None, False), TINY)
    assert [(row["strategy"], row["is_masqueraded"]) for row in rows] == [
        (strategy.value, is_masqueraded)
        for strategy in Strategy
        for is_masqueraded in (False, True)
    ]
    assert all(row["new_ns"] > 0 for row in rows)


def test_by_numbers_alone_every_shape_has_its_rows(ours: Path) -> None:
    rows = lines_of(ours, FLOWS)
    assert [(row["protocol"], row["family"], row["mode"]) for row in rows] == [
        (*shape, mode) for shape in SHAPES for mode in MODES
    ]


def test_every_table_of_the_page_has_as_many_cells_as_columns(ours: Path) -> None:
    programs = Programs(ours, None, None, False)
    measures = Measures(
        packets=measure(programs, "udp", "ipv4", FLOWS, TINY),
        strategies=measure_strategies(programs, TINY),
        firsts=[[{"services": 10, "p50_ns": 500, "p99_ns": 900}]] * 3,
        updates=[[{"services": 10_000, **dict.fromkeys(UPDATE_FIELDS, 8000)}]] * 3,
        python=[{"name": "test_one", "stats": {"median": 1e-6}, "extra_info": {"packets": 1}}],
        parts=[("pick of 16/random", "10.6 ns")],
    )
    tables = [part for part in page(measures).split("\n\n") if part.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        head, *lines = table.strip().splitlines()
        assert len(lines) >= 2
        assert {line.count("|") for line in lines} == {head.count("|")}


def test_revisions_are_compared_by_the_names_of_rows() -> None:
    # A base revision may print neither protocol nor family: its rows are UDP in IPv4.
    base = {"1,000 flows, one, known": 20.0, "gone, known": 1.0}
    head = {"1,000 flows, one, known": 30.0, "tcp ipv6, 1,000 flows, one, known": 70.0}
    [row] = compare.compare([(base, head)] * 3)
    assert (row.name, row.ratio, row.is_slower) == ("1,000 flows, one, known", 1.5, True)
    assert compare.shape({"flows": 1000}) == compare.shape({"protocol": "udp", "family": "ipv4"})
    assert compare.shape({"protocol": "tcp", "family": "ipv6"}) == "tcp ipv6, "


DUMP = """# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 26175
cmd:  target/yardstick count udp ipv4 1000
part: 5


desc: I1 cache:
desc: Timerange: Basic block 116842 - 559122
desc: Trigger: --dump-before=phase_ends

positions: line
events: Ir
summary: 2751230

ob=(1) target/yardstick
fl=(1) family.h
fn=(1) measured_one4
118 12

totals: 2751230
"""


def test_a_dump_of_callgrind_is_summed_up_by_packet() -> None:
    output = (
        '{"phase": "warm", "mode": "one", "packets": 0}\n'
        '{"phase": "known", "mode": "one", "packets": 32000}\n'
    )
    warm, known = callgrind.phases(output, [DUMP, DUMP])
    assert known == {"phase": "known", "mode": "one", "packets": 32000, "instructions": 86.0}
    assert warm["instructions"] is None


@pytest.mark.parametrize(
    "dump", ["", DUMP.replace("totals", "total"), DUMP.replace("events: Ir", "events: Dr Ir")]
)
def test_other_files_than_dumps_of_instructions_are_refused(dump: str) -> None:
    with pytest.raises(ValueError, match="no dump of callgrind"):
        callgrind.total(dump)


def test_a_lost_dump_is_noticed() -> None:
    with pytest.raises(ValueError, match="1 dumps for 2 phases"):
        callgrind.phases('{"packets": 1}\n{"packets": 1}\n', [DUMP])


def test_ratios_are_those_of_the_rounds() -> None:
    # The medians alone, 20 and 10, would hide that both were slow together.
    rounds: list[tuple[float, float | None]] = [(10.0, 10.0), (20.0, 10.0), (60.0, 20.0)]
    row = summarise(rounds)
    assert row == {"ns": 20.0, "c_ns": 10.0, "ratio": 2.0, "ratio_p10": 1.0, "ratio_p90": 3.0}


def test_the_generated_capture_is_translated_whole() -> None:
    with replay.capture(100_000) as capture:
        assert capture.path.stat().st_size >= 100_000
        assert capture.packets % 24 == 0, "connections are whole"
        # It ends the run when a packet was not translated.
        replay.measure(capture)
    assert not capture.path.exists()


def test_segments_of_the_capture_have_right_checksums() -> None:
    for frame in replay.connection(70_001):
        packet: Any = IP(frame[14:])
        sums = packet.chksum, packet[TCP].chksum
        del packet.chksum, packet[TCP].chksum
        rebuilt: Any = IP(bytes(packet))
        assert (rebuilt.chksum, rebuilt[TCP].chksum) == sums


def test_each_encoding_and_way_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    rows = encodings.measure(count=20, rounds=1)
    assert len({(row["resource"], row["way"], row["encoding"]) for row in rows}) == 8
    for in_json, in_protobuf in zip(rows[::2], rows[1::2], strict=True):
        assert (in_json["encoding"], in_protobuf["encoding"]) == ("JSON", "protobuf")
        assert in_json["bytes"] > 1.5 * in_protobuf["bytes"]
        assert min(in_json["cpu_s"], in_protobuf["cpu_s"]) > 0
    assert "| 20 services, list, protobuf |" in encodings.page(rows)
