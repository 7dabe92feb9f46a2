"""Damage the code one line at a time, and see whether a test notices.

`mutate.py [PATTERN ...] [--list] [-o json]`, as root. The mutants are in mutants.yaml beside this file: a
change of a file, and the tests that must fail with it. Each is applied to a copy of the working tree, which
target/mutants keeps; a second run at the same time has a copy of its own. At last the tests that have noticed
mutants run on sound code. Ends with 1 if a mutant survives without a reason, no longer fits the code, or does
not build; or if its tests fail without it, too, or are all skipped.
"""

import argparse
import fcntl
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import yaml
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parents[2]
PLACES: Final = ROOT / "target/mutants"
TEST_SECONDS: Final = 300
"""A test that hangs has noticed."""
FAILED: Final = re.compile(
    r"^(?:(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?|test (\S+) \.\.\. FAILED)$", re.MULTILINE
)
NONE_RAN: Final = re.compile(r"^\d+ skipped[^\n]*$", re.MULTILINE)
LEAN: Final = (
    "-o",
    "addopts=",
    *(f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "benchmark")),
)
"""The plugins take longer to begin than most tests."""
UNBUILT: Final = "error: could not compile"


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    ALLOWED = "survived, allowed"
    MISFIT = "does not fit the code"
    UNBUILT = "does not build"
    UNSOUND = "its tests fail without it"
    SKIPPED = "its tests are skipped here"


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

    @property
    def is_in_extension(self) -> bool:
        """Its tests see it through the extension, which is to be built."""
        return self.file.startswith("rust/") and self.tests.startswith("pytest")

    def misfit(self, root: Path) -> str:
        """Why it cannot be applied; empty when it can."""
        path = root / self.file
        places = path.read_text().count(self.before) if path.is_file() else 0
        if self.before == self.after:
            return "it changes nothing"
        return "" if places == 1 else f"{places} places in {self.file} read so"


@dataclass(frozen=True)
class Finding:
    """What became of a mutant, and by which test or for which reason."""

    mutant: Mutant
    outcome: Outcome
    detail: str
    seconds: float


class Copy:
    """A copy of the working tree, to be damaged, with what was built of it."""

    def __init__(self, place: Path) -> None:
        self.tree, self._target = place / "tree", place / "target"
        self._extensions = list((ROOT / "python/kbe_nat").glob("_native*.so"))
        named = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(named, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
            "\0"
        )
        files = {name for name in listed if name and (ROOT / name).is_file()}
        folder = self.tree.rglob("*") if self.tree.is_dir() else ()
        for old in [path for path in folder if path.is_file()]:
            if str(old.relative_to(self.tree)) not in files:
                old.unlink()
        for name in sorted(files):
            _write(self.tree / name, (ROOT / name).read_bytes())
        self.mend_extension()

    def mend_extension(self) -> None:
        """The extension as it is in the working tree."""
        for own in self._extensions:
            _write(self.tree / "python/kbe_nat" / own.name, own.read_bytes())

    def try_out(self, mutant: Mutant) -> tuple[Outcome, str]:
        """Apply it, run its tests, and take it back."""
        path = self.tree / mutant.file
        text = path.read_text()
        path.write_text(text.replace(mutant.before, mutant.after))
        try:
            if mutant.is_in_extension and (complaint := self._build_extension()):
                return Outcome.UNBUILT, complaint
            said = self.complaint(mutant.tests)
        finally:
            path.write_text(text)
            if mutant.is_in_extension:
                self.mend_extension()
        if said is None:
            return (Outcome.ALLOWED, mutant.allowed) if mutant.allowed else (Outcome.SURVIVED, "")
        if said == Outcome.SKIPPED:
            return Outcome.SKIPPED, ""
        return (Outcome.UNBUILT if said.startswith(UNBUILT) else Outcome.KILLED), said

    def _build_extension(self) -> str | None:
        if complaint := self.complaint("cargo build --quiet --release -p kbe-nat-python"):
            return complaint
        [library] = (self._target / "release").glob("lib*native*.so")
        for own in self._extensions:
            _write(self.tree / "python/kbe_nat" / own.name, library.read_bytes())
        return None

    def complaint(self, command: str) -> str | None:
        """None if it ends well; otherwise the first test that failed, or its last line."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.tree / "python"),
            "CARGO_TARGET_DIR": str(self._target),
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_PROFILE_RELEASE_OPT_LEVEL": "2",
            "CARGO_PROFILE_TEST_DEBUG": "0",
        }
        words = shlex.split(command)
        if words[0] == "pytest":
            words = [sys.executable, "-m", "pytest", "-q", "-x", *LEAN, *words[1:]]
        # In a session of its own, so that what a hanging test has started ends with it.
        with subprocess.Popen(
            words,
            cwd=self.tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=TEST_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.communicate()
                return f"it hangs for {TEST_SECONDS} s"
        if not process.returncode:
            return Outcome.SKIPPED if words[0] == sys.executable and NONE_RAN.search(said) else None
        if UNBUILT in said:
            return said[said.index(UNBUILT) :].splitlines()[0]
        found = FAILED.search(said)
        return next(filter(None, found.groups())) if found else (said.strip().splitlines() or ["?"])[-1]


def _write(path: Path, content: bytes) -> None:
    """What is there already keeps its time: cargo builds again what is newer than what it has."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)


@contextmanager
def free_place() -> Iterator[Path]:
    """A folder that no other run has."""
    for number in itertools.count():
        place = PLACES / str(number)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield place
            return


def mutants(patterns: list[str]) -> list[Mutant]:
    """Those whose name, file or tests match one of these; without patterns all."""
    listed = [Mutant(**row) for row in yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text())]

    def is_chosen(mutant: Mutant) -> bool:
        text = f"{mutant.name} {mutant.file} {mutant.tests}"
        return not patterns or any(re.search(pattern, text) for pattern in patterns)

    # What is quick comes first, and those of one crate or file beside each other: less is built again.
    return sorted(
        filter(is_chosen, listed),
        key=lambda mutant: (mutant.is_in_extension, "netns" in mutant.tests, mutant.file, mutant.tests),
    )


def tried(copy: Copy, mutant: Mutant) -> Finding:
    """What becomes of it."""
    started = time.monotonic()
    misfit = mutant.misfit(copy.tree)
    outcome, detail = (Outcome.MISFIT, misfit) if misfit else copy.try_out(mutant)
    return Finding(mutant, outcome, detail, time.monotonic() - started)


def verified(copy: Copy, findings: list[Finding]) -> list[Finding]:
    """What was noticed counts only if the tests that have noticed it succeed without it."""
    killed = [own for own in findings if own.outcome is Outcome.KILLED]
    # Those of pytest all at once, which is quicker; when that does not succeed, one by one.
    named = [own for own in killed if "::" in own.detail and own.mutant.tests.startswith("pytest")]
    at_once = shlex.join(("pytest", *dict.fromkeys(own.detail for own in named)))
    alone = killed if named and copy.complaint(at_once) else [own for own in killed if own not in named]
    commands = dict.fromkeys(own.mutant.tests for own in alone)
    complaints = {tests: complaint for tests in commands if (complaint := copy.complaint(tests))}
    return [
        replace(own, outcome=Outcome.UNSOUND, detail=complaints[own.mutant.tests])
        if own in killed and own.mutant.tests in complaints
        else own
        for own in findings
    ]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="of names, files or tests (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="what there is, and whether it fits the code")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    flags = parser.parse_args()
    chosen = mutants(flags.patterns)
    if flags.list:
        for mutant in chosen:
            print(f"{mutant.name}: {mutant.misfit(ROOT) or mutant.tests}")
        return int(any(mutant.misfit(ROOT) for mutant in chosen))

    progress = Console(stderr=True, highlight=False, markup=False)
    findings: list[Finding] = []
    with free_place() as place:
        copy = Copy(place)
        for mutant in chosen:
            findings.append(found := tried(copy, mutant))
            said = f"{mutant.name}: {found.outcome} ({found.detail}) {found.seconds:.0f} s"
            progress.print(f"{len(findings)} of {len(chosen)}: {said}", soft_wrap=True)
        findings = verified(copy, findings)
    show(findings, flags.output)
    return 0 if all(found.outcome in (Outcome.KILLED, Outcome.ALLOWED) for found in findings) else 1


def show(findings: list[Finding], output: str) -> None:
    """A table, or JSON."""
    columns = ("mutant", "file", "outcome", "by", "seconds")
    rows = [
        (own.mutant.name, own.mutant.file, own.outcome.value, own.detail, round(own.seconds))
        for own in findings
    ]
    if output == "json":
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    table = Table(*columns[:1], *columns[2:4])
    for name, _, outcome, by, _ in rows:
        table.add_row(name, outcome, by)
    console = Console()
    console.print(table)
    for outcome in Outcome:
        if count := sum(own.outcome is outcome for own in findings):
            console.print(f"{count} {outcome}")


if __name__ == "__main__":
    sys.exit(main())
