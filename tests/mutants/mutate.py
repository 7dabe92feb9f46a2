"""Damage the code one line at a time, and see whether a test notices.

`python -m mutants.mutate [PATTERN ...] [--list] [-o json]`, as root. The mutants are in
mutants.yaml beside this file: a change of a file, and the tests that must fail with it. Each is
applied to a copy of the working tree, which target/mutants keeps; a second run at the same time has
a copy of its own. At last the tests that have noticed mutants run on sound code. Ends with 1 if a
mutant survives without a reason, no longer fits the code, or does not build; or if its tests fail
without it, too, or are all skipped.
"""

import argparse
import json
import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from mutants.tree_copy import ROOT, SKIPPED, TEST_SECONDS, UNBUILT, TreeCopy, free_copy


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    ALLOWED = "survived, allowed"
    MISFIT = "does not fit the code"
    UNBUILT = "does not build"
    UNSOUND = "its tests fail without it"
    SKIPPED = SKIPPED


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

    @property
    def is_bpf(self) -> bool:
        """Its file is compiled on its own, by clang."""
        return self.file.endswith((".bpf.c", ".bpf.h"))

    def misfit(self, root: Path) -> str:
        """Why it cannot be applied; empty when it can."""
        if self.before == self.after:
            return "it changes nothing"
        path = root / self.file
        places = path.read_text().count(self.before) if path.is_file() else 0
        return "" if places == 1 else f"{places} places in {self.file} read so"


@dataclass(frozen=True)
class Finding:
    """What became of a mutant, and by which test or for which reason."""

    mutant: Mutant
    outcome: Outcome
    detail: str
    seconds: float


def mutants(patterns: list[str]) -> list[Mutant]:
    """Those whose name, file or tests match one of these; without patterns all."""
    rows = yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text())

    def is_chosen(mutant: Mutant) -> bool:
        text = f"{mutant.name} {mutant.file} {mutant.tests}"
        return not patterns or any(re.search(pattern, text) for pattern in patterns)

    # What is quick comes first, and those of one crate or file beside each other: less is built
    # again.
    return sorted(
        (mutant for row in rows if is_chosen(mutant := Mutant(**row))),
        key=lambda own: (own.is_in_extension, "netns" in own.tests, own.file, own.tests),
    )


def tried(copy: TreeCopy, mutant: Mutant) -> Finding:
    """What becomes of it: applies it, runs its tests, and takes it back."""
    if misfit := mutant.misfit(copy.folder):
        return Finding(mutant, Outcome.MISFIT, misfit, 0.0)
    started = time.monotonic()
    path = copy.folder / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.before, mutant.after))
    try:
        said = copy.write_bpf_program() if mutant.is_bpf else None
        if mutant.is_in_extension:
            said = said or copy.build_extension()
        if mutant.tests.startswith("cargo"):
            said = said or copy.build_tests(mutant.tests)
        said = said or copy.complaint(mutant.tests)
    finally:
        path.write_text(text)
        if mutant.is_bpf:
            copy.write_bpf_program()
        copy.mend_extension()
    outcome = Outcome.KILLED
    if said is None:
        outcome, said = (Outcome.ALLOWED if mutant.allowed else Outcome.SURVIVED), mutant.allowed
    elif said == SKIPPED:
        outcome = Outcome.SKIPPED
    elif said.startswith(UNBUILT):
        outcome = Outcome.UNBUILT
    return Finding(mutant, outcome, said, time.monotonic() - started)


def verified(copy: TreeCopy, findings: list[Finding]) -> list[Finding]:
    """What was noticed counts only if the tests that have noticed it succeed without it."""
    killed = [own for own in findings if own.outcome is Outcome.KILLED]
    # Those of pytest all at once, which is quicker; when that does not succeed, one by one.
    named = [own for own in killed if "::" in own.detail and own.mutant.tests.startswith("pytest")]
    at_once = shlex.join(("pytest", *dict.fromkeys(own.detail for own in named)))
    is_noisy = named and copy.complaint(at_once, TEST_SECONDS * len(named))
    alone = killed if is_noisy else [own for own in killed if own not in named]
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
    parser.add_argument(
        "--list", action="store_true", help="what there is, and whether it fits the code"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    flags = parser.parse_args()
    chosen = mutants(flags.patterns)
    if flags.list:
        for mutant in chosen:
            print(f"{mutant.name}: {mutant.misfit(ROOT) or mutant.tests}")
        return int(any(mutant.misfit(ROOT) for mutant in chosen))
    progress = Console(stderr=True, highlight=False, markup=False)
    findings: list[Finding] = []
    with free_copy() as copy:
        for mutant in chosen:
            findings.append(found := tried(copy, mutant))
            said = f"{mutant.name}: {found.outcome} ({found.detail}) {found.seconds:.0f} s"
            progress.print(f"{len(findings)} of {len(chosen)}: {said}", soft_wrap=True)
        findings = verified(copy, findings)
    show(findings, flags.output)
    return 0 if all(found.outcome in (Outcome.KILLED, Outcome.ALLOWED) for found in findings) else 1


def show(findings: list[Finding], output: str) -> None:
    """A table, or JSON."""
    if output == "json":
        columns = ("name", "file", "outcome", "by", "seconds")
        rows = [
            (own.mutant.name, own.mutant.file, own.outcome, own.detail, round(own.seconds))
            for own in findings
        ]
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    table = Table("mutant", "outcome", "by")
    for own in findings:
        table.add_row(own.mutant.name, own.outcome, own.detail)
    console = Console()
    console.print(table)
    for outcome in Outcome:
        if count := sum(own.outcome is outcome for own in findings):
            console.print(f"{count} {outcome}")


if __name__ == "__main__":
    sys.exit(main())
