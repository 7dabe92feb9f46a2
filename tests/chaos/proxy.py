"""The daemon of the chaos run: started, ended in every way, started again, and measured."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.waiting import eventually
from kbe_nat.playground.namespaces import Namespace

COMMAND: Final = (sys.executable, "-m", "kbe_nat")


@dataclass
class Sample:
    """What a daemon used at a moment."""

    seconds: float
    """Since the run began."""
    resident: int
    """Kilobytes."""
    descriptors: int
    threads: int


@dataclass
class Proxy:
    """`kbe-nat proxy` in the node's namespace."""

    node: Namespace
    folder: Path
    datapath: str
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """Of all its lives."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Of its newest life."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.node.prefix, *COMMAND, "proxy", *self._places(), "--strategy", "random"],
                stderr=log,
            )
        self.starts += 1
        eventually(lambda: self.ask("get", "status", "-o", "json")[0] == 0)

    def restart(self, number: int, pause: float) -> None:
        """End it by a signal, and start it again a while later."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        time.sleep(pause)
        self.start()

    def stall(self, seconds: float) -> None:
        """Let it stand still."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """At once, if it lives."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a verb that talks to it."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--socket", str(self.folder / "control.sock")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def beside(self, *arguments: str) -> int:
        """Exit code of a verb in the node's namespace that must not touch anything."""
        done = subprocess.run(
            [*self.node.prefix, *COMMAND, *arguments], capture_output=True, timeout=60, check=False
        )
        return done.returncode

    def dry_run(self) -> int:
        """Exit code of another one that only says what it would do."""
        return self.beside("proxy", *self._places(), "--dry-run")

    def stats(self) -> Any:
        """Its counters."""
        return json.loads(self.ask("get", "stats", "-o", "json")[1])

    def measure(self, seconds: float) -> None:
        """Take a sample, `seconds` after the run began."""
        process = Path(f"/proc/{self.pid}")
        try:
            status = (process / "status").read_text()
            descriptors = len(list((process / "fd").iterdir()))
        except OSError:
            return
        facts = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in facts:
            resident, threads = int(facts["VmRSS"].split()[0]), int(facts["Threads"])
            self.samples.append(Sample(seconds, resident, descriptors, threads))

    def _places(self) -> tuple[str, ...]:
        return (
            "--manifests",
            str(self.folder / "objects"),
            "--socket",
            str(self.folder / "control.sock"),
            "--state",
            str(self.folder / "state"),
            "--datapath",
            self.datapath,
        )
