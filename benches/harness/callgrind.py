"""Instructions a packet, by callgrind: exact where a clock is not, and the same on a busy machine.

A program counts for us when it does its work in functions named `measured_...` and calls
`phase_ends` after each phase, which prints a JSON object with the number of `packets`. Callgrind
collects inside the former alone, and dumps and clears its sums at the latter. So start-up, filled
tables and first touches fall out, as in the difference of two numbers of rounds, by one run.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benches.harness.processes import ROOT

OPTIONS: Final = (
    "--tool=callgrind",
    "--collect-atstart=no",
    "--toggle-collect=*measured_*",
    "--dump-before=*phase_ends*",
)


def is_installed() -> bool:
    """Whether there is valgrind; without it a line on standard error says so."""
    if shutil.which("valgrind"):
        return True
    print(
        "valgrind is not installed: instructions are not counted (Debian package valgrind)",
        file=sys.stderr,
    )
    return False


def count(program: Path, *arguments: str) -> list[dict[str, Any]]:
    """The phases of a program's run, with `instructions` for each packet. Cost: it runs about
    fifty times slower.
    """
    target = ROOT / "target"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix="callgrind-") as folder:
        dump = Path(folder) / "dump"
        command = ["valgrind", *OPTIONS, f"--callgrind-out-file={dump}", str(program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
        # The dump at the program's end, of nothing, has no number.
        numbers = range(1, done.stdout.count("\n") + 1)
        dumps = [dump.with_name(f"dump.{number}") for number in numbers]
        return phases(done.stdout, [path.read_text() for path in dumps if path.exists()])


def phases(output: str, dumps: list[str]) -> list[dict[str, Any]]:
    """The lines of a program's output, each with the instructions that its dump sums up."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    if len(rows) != len(dumps):
        raise ValueError(f"callgrind wrote {len(dumps)} dumps for {len(rows)} phases")
    return [
        {**row, "instructions": round(total(dump) / row["packets"], 1) if row["packets"] else None}
        for row, dump in zip(rows, dumps, strict=True)
    ]


def total(dump: str) -> int:
    """The sum over all functions of one dump, of its first kind of event: instructions."""
    events = re.search(r"^events: (\S+)", dump, re.MULTILINE)
    totals = re.search(r"^totals: (\d+)", dump, re.MULTILINE)
    if events is None or events[1] != "Ir" or totals is None:
        raise ValueError("this is no dump of callgrind that counts instructions")
    return int(totals[1])
