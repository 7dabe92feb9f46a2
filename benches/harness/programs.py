"""Programs that measure the engine: built, run once, or kept running and asked in turn."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benches.harness.processes import ROOT

YARDSTICK: Final = ROOT / "benches/yardstick/engine.c"
COUNTED_PROCESSOR: Final = "x86-64-v3"
"""Valgrind does not know AVX-512, which a native build may use."""


def build(
    name: str,
    *,
    tree: Path = ROOT,
    verb: Sequence[str] = ("bench",),
    environment: Mapping[str, str] | None = None,
) -> Path:
    """The program of a benchmark in Rust."""
    command = ["cargo", *verb, "--quiet", "-p", "kbe-nat-engine", "--bench", name, "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"],
        cwd=tree,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(m["executable"] for m in messages if m.get("executable")))


def build_yardstick(processor: str = "native") -> Path | None:
    """The C program; None where there is no compiler, or another processor than it is written
    for.
    """
    if platform.machine() != "x86_64" or shutil.which("cc") is None:
        print("engine.c is left out: it needs a C compiler (cc) on x86-64", file=sys.stderr)
        return None
    program = ROOT / f"target/yardstick-{processor}"
    program.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O3", f"-march={processor}", "-o", program, YARDSTICK], check=True)
    return program


def lines_of(program: Path, *arguments: str | int) -> list[dict[str, Any]]:
    """The output of a program for some arguments: one JSON object in each line."""
    done = subprocess.run(
        [program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


class Server:
    """A program that has filled its table and measures a block of packets whenever it is asked.

    Two of them that are asked in turn meet the same moments of a shared machine. All run on one
    processor, the last that we may use: they never run at once.
    """

    def __init__(self, program: Path, protocol: str, family: str, flows: int):
        self._name = f"{program.name} serve {protocol} {family} {flows}"
        self._process = subprocess.Popen(
            [program, "serve", protocol, family, str(flows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})
        rows = [self._read() for _ in range(2)]
        self.fill: dict[str, dict[str, Any]] = {row["mode"]: row for row in rows}
        """Figures of the filled table by mode: `new_ns`, and ours have `bytes_per_flow`."""

    def block(self, mode: str) -> float:
        """Nanoseconds of a packet, the median of a block of batches."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{mode}\n")
        self._process.stdin.flush()
        return float(self._read()["ns"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended with {self._process.wait()}")
        row: dict[str, Any] = json.loads(line)
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        status = self._process.wait()
        self._process.stdout.close()
        if status and error is None:
            sys.exit(f"{self._name} ended with {status}")
