"""The words of the stub are those of the engine, and the type checker holds programs to them."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import kbe_nat
from kbe_nat import _native, words

ROOT = Path(__file__).parent.parent
USES = ROOT / "tests/typing_uses.py"


def test_the_words_are_those_of_the_engine() -> None:
    assert get_args(words.Action) == kbe_nat.ACTIONS
    assert get_args(words.Cause) == kbe_nat.CAUSES
    assert get_args(words.StrategyName) == _native.STRATEGIES == tuple(kbe_nat.Strategy)


def test_the_engine_takes_each_word() -> None:
    for kind in get_args(words.FrontendKind):
        address = "" if kind == "node-port" else "10.96.0.1"
        assert kbe_nat.Frontend(address, 80, kind).kind == kind
    for protocol in get_args(words.Protocol):
        assert kbe_nat.ServicePort("a/b", [], [], protocol=protocol).protocol == protocol
    for strategy in get_args(words.StrategyName):
        assert kbe_nat.ServicePort("a/b", [], [], strategy=strategy).strategy == strategy
    for mode in get_args(words.Mode):
        kbe_nat.NodeView(mode=mode)
    for policy in get_args(words.UnknownPort):
        kbe_nat.NodeView(unknown_port=policy)
    for midstream in get_args(words.Midstream):
        kbe_nat.Engine(midstream=midstream)
    for invalid in get_args(words.InvalidTcp):
        kbe_nat.Engine(invalid=invalid)
    for offloaded in get_args(words.Offloaded):
        kbe_nat.Engine(offloaded=offloaded)
    for mapping in get_args(words.Mapping):
        assert kbe_nat.Snat([], mapping=mapping).mapping == mapping
    for allocation in get_args(words.Allocation):
        clients = ["10.0.0.0/8"] if allocation == "deterministic" else []
        snat = kbe_nat.Snat([], allocation=allocation, clients=clients)
        assert snat.allocation == allocation
    for answer in get_args(words.Answer):
        kbe_nat.reject(b"", answer)
    for state in get_args(words.State):
        assert list(kbe_nat.Engine().flows(state=state)) == []
    for action in get_args(words.Decided):
        assert kbe_nat.Engine().decisions(verdict=action) == []


def test_right_uses_pass_the_type_checker_and_wrong_ones_do_not(tmp_path: Path) -> None:
    done = checked(USES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert USES.read_text().count("# type: ignore[") > 15


def test_the_type_checker_finds_an_ignore_without_an_error(tmp_path: Path) -> None:
    text = USES.read_text().replace('"nodeport")', '"node-port")')
    (tmp_path / "uses.py").write_text(text)
    done = checked(tmp_path / "uses.py", tmp_path)
    assert 'Unused "type: ignore" comment' in done.stdout


def checked(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache / "cache"), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
