"""Damage the code one line at a time, and see whether a test notices.

`mutate.py [PATTERN ...] [-o json]`, as root. The mutants are in mutants.yaml beside this file: a change of a
file, and the tests that must fail with it. Each is applied to a copy of the working tree. Ends with 1 if one
survives without a reason, no longer fits the code, or does not build; or if its tests fail without it.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parents[2]
TARGET: Final = ROOT / "target/mutants"
TEST_SECONDS: Final = 600
"""A test that hangs has noticed."""
FAILED: Final = re.compile(r"^(?:FAILED (\S+)|test (\S+) \.\.\. FAILED)", re.MULTILINE)


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    ALLOWED = "survived, allowed"
    MISFIT = "does not fit the code"
    UNBUILT = "does not build"
    UNSOUND = "its tests fail without it"


@dataclass(frozen=True)
class Mutant:
    """One change of one place."""

    name: str
    file: str
    before: str
    after: str
    tests: str
    """`cargo ...` or `pytest ...`, as one would type it."""
    allowed: str = ""
    """Why nothing notices."""


@dataclass(frozen=True)
class Finding:
    """What became of a mutant, and by which test or for which reason."""

    mutant: Mutant
    outcome: Outcome
    detail: str
    seconds: float


class Copy:
    """A copy of the working tree, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # With their times: cargo builds again what is newer than what it has.
                shutil.copy2(ROOT / name, folder / name)
        for extension in (ROOT / "python/kbe_nat").glob("_native*.so"):
            shutil.copy2(extension, folder / "python/kbe_nat")
        self._sound: dict[str, str] = {}
        self._is_extension_damaged = False

    def try_out(self, mutant: Mutant) -> tuple[Outcome, str]:
        """Apply it, run its tests, and take it back."""
        path = self.folder / mutant.file
        text = path.read_text()
        if text.count(mutant.before) != 1:
            return Outcome.MISFIT, f"{text.count(mutant.before)} places in {mutant.file} read so"
        if complaint := self._complaint(mutant.tests):
            return Outcome.UNSOUND, complaint
        path.write_text(text.replace(mutant.before, mutant.after))
        try:
            return self._judged(mutant)
        finally:
            path.write_text(text)

    def _judged(self, mutant: Mutant) -> tuple[Outcome, str]:
        is_rust = mutant.file.startswith("rust/")
        if is_rust and mutant.tests.startswith("pytest"):
            if complaint := self._build_extension():
                return Outcome.UNBUILT, complaint
            self._is_extension_damaged = True
        elif is_rust and (complaint := self._run(f"{mutant.tests.partition(' -- ')[0]} --no-run")):
            return Outcome.UNBUILT, complaint
        said = self._run(mutant.tests)
        if said is None:
            return (Outcome.ALLOWED, mutant.allowed) if mutant.allowed else (Outcome.SURVIVED, "")
        return Outcome.KILLED, said

    def _complaint(self, tests: str) -> str:
        """What these tests say of code that nobody has damaged."""
        if self._is_extension_damaged and tests.startswith("pytest"):
            self._build_extension()
            self._is_extension_damaged = False
        if tests not in self._sound:
            self._sound[tests] = self._run(tests) or ""
        return self._sound[tests]

    def _build_extension(self) -> str | None:
        if complaint := self._run("cargo build --quiet --release -p kbe-nat-python"):
            return complaint
        [library] = (TARGET / "release").glob("lib*native*.so")
        for old in (self.folder / "python/kbe_nat").glob("_native*.so"):
            shutil.copy2(library, old)
        return None

    def _run(self, command: str) -> str | None:
        """None if it ends well; otherwise the first test that failed, or its last line."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder / "python"),
            "CARGO_TARGET_DIR": str(TARGET),
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
        }
        words = shlex.split(command)
        if words[0] == "pytest":
            words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words[1:]]
        # In a session of its own, so that what a hanging test has started ends with it.
        with subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=TEST_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.communicate()
                return f"it hangs for {TEST_SECONDS} s"
        if not process.returncode:
            return None
        found = FAILED.search(said)
        return next(filter(None, found.groups())) if found else (said.strip().splitlines() or ["?"])[-1]


def mutants(patterns: list[str]) -> list[Mutant]:
    """Those whose name, file or tests match one of these; without patterns all."""
    listed = [Mutant(**row) for row in yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text())]
    names = [mutant.name for mutant in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        sys.exit(f"mutants.yaml: named twice: {', '.join(twice)}")

    def is_chosen(mutant: Mutant) -> bool:
        text = f"{mutant.name} {mutant.file} {mutant.tests}"
        return not patterns or any(re.search(pattern, text) for pattern in patterns)

    # Those of one crate or file beside each other: less is built again.
    return sorted(filter(is_chosen, listed), key=lambda mutant: (mutant.tests.split()[0], mutant.file))


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="of names, files or tests (default: all)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    flags = parser.parse_args()
    chosen = mutants(flags.patterns)
    progress = Console(stderr=True, highlight=False, markup=False)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="kbe-mutants-") as folder:
        copy = Copy(Path(folder))
        for number, mutant in enumerate(chosen, 1):
            started = time.monotonic()
            outcome, detail = copy.try_out(mutant)
            findings.append(Finding(mutant, outcome, detail, time.monotonic() - started))
            progress.print(f"{number} of {len(chosen)}: {mutant.name}: {outcome} ({detail})", soft_wrap=True)
    show(findings, flags.output)
    return 0 if all(found.outcome in (Outcome.KILLED, Outcome.ALLOWED) for found in findings) else 1


def show(findings: list[Finding], output: str) -> None:
    """A table, or JSON."""
    if output == "json":
        rows: list[dict[str, Any]] = [
            {
                "name": found.mutant.name,
                "file": found.mutant.file,
                "outcome": found.outcome,
                "by": found.detail,
            }
            for found in findings
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in ("mutant", "outcome", "by"):
        table.add_column(column, overflow="fold")
    for found in findings:
        table.add_row(found.mutant.name, found.outcome, found.detail)
    console = Console()
    console.print(table)
    for outcome in Outcome:
        count = sum(found.outcome is outcome for found in findings)
        if count:
            console.print(f"{count} {outcome}")


if __name__ == "__main__":
    sys.exit(main())
