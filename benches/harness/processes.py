"""Programs that benchmarks run: compiled, started, and what they cost."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@contextmanager
def running(command: tuple[str, ...], patience: float = 0.1) -> Iterator[int]:
    """A process that says "ready" when it is, and its number. It is killed when it does not end
    within `patience` seconds after its standard input: ours take their rules away meanwhile.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit(f"{' '.join(command)} does not start")
        yield process.pid
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def compile_program(source: Path, name: str, *more: str) -> Path | None:
    """A C program; None, with the reason, without a compiler."""
    if shutil.which("cc") is None:
        print(f"{source.name} is left out: there is no C compiler (cc)", file=sys.stderr)
        return None
    program = ROOT / "target" / name
    program.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O3", "-o", program, source, *more], check=True)
    return program
