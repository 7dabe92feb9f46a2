"""Copies of the working tree that may be damaged: their files, what is built of them, and their
tests.
"""

import fcntl
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PLACES: Final = ROOT / "target/mutants"
TEST_SECONDS: Final = 300
"""A test that hangs has noticed."""
BUILD_SECONDS: Final = 1800
"""One that is built has not: the first build of a copy takes long on a busy machine."""
LEAN: Final = ("-o", "addopts=", "-pno:cacheprovider", "-pno:hypothesispytest", "-pno:benchmark")
"""Without the plugins that take longer to begin than most tests."""
PROFILES: Final = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "2",
    "CARGO_PROFILE_TEST_DEBUG": "0",
}
"""Quick to build."""
FAILED: Final = re.compile(
    r"^(?:(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?|test (\S+) \.\.\. FAILED)$", re.MULTILINE
)
SKIPPED: Final = "its tests are skipped here"
NONE_RAN: Final = re.compile(r"^\d+ skipped.*$", re.MULTILINE)
UNBUILT: Final = "error: could not compile"


class TreeCopy:
    """A copy of the working tree as it is now, with what earlier runs have built in it."""

    def __init__(self, place: Path) -> None:
        self.folder, self._target = place / "tree", place / "target"
        self._extensions = list((ROOT / "python/kbe_nat").glob("_native*.so"))
        command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        files = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
        for old in self.folder.rglob("*"):
            if old.is_file() and str(old.relative_to(self.folder)) not in files:
                old.unlink()
        for name in files:
            _write(self.folder / name, (ROOT / name).read_bytes())
        self.mend_extension()

    def mend_extension(self) -> None:
        """The extension as it is in the working tree."""
        for own in self._extensions:
            _write(self.folder / "python/kbe_nat" / own.name, own.read_bytes())

    def write_bpf_program(self) -> str | None:
        """None if the flow cache's programs are written, from their source as it is here; otherwise
        why not.
        """
        complaint = self.complaint(f"{sys.executable} tools/flow_cache_program.py")
        return complaint and f"{UNBUILT}: {complaint}"

    def build_tests(self, command: str) -> str | None:
        """None if what `cargo test ...` runs is built; otherwise why not."""
        words, _, _ = command.partition(" -- ")
        return self._built(f"{words} --no-run")

    def build_extension(self) -> str | None:
        """None if it is built, from the code as it is here; otherwise why not."""
        if complaint := self._built("cargo build --quiet --release -p kbe-nat-python"):
            return complaint
        [library] = (self._target / "release").glob("lib*native*.so")
        for own in self._extensions:
            _write(self.folder / "python/kbe_nat" / own.name, library.read_bytes())
        return None

    def _built(self, command: str) -> str | None:
        complaint = self.complaint(command, BUILD_SECONDS)
        is_told = complaint is None or complaint.startswith(UNBUILT)
        return complaint if is_told else f"{UNBUILT}: {complaint}"

    def complaint(self, command: str, seconds: int = TEST_SECONDS) -> str | None:
        """None if it ends well; otherwise the first failed test, `SKIPPED`, or the last line."""
        words = shlex.split(command)
        is_pytest = words[0] == "pytest"
        # In a session of its own, so that what a hanging test has started ends with it.
        with subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-x", *LEAN, *words[1:]] if is_pytest else words,
            cwd=self.folder,
            env={
                **os.environ,
                **PROFILES,
                "PYTHONPATH": str(self.folder / "python"),
                "CARGO_TARGET_DIR": str(self._target),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.communicate()
                return f"it hangs for {seconds} s"
        if not process.returncode:
            return SKIPPED if is_pytest and NONE_RAN.search(said) else None
        if UNBUILT in said:
            return said[said.index(UNBUILT) :].splitlines()[0]
        found = FAILED.search(said)
        return (
            next(filter(None, found.groups()))
            if found
            else (said.strip().splitlines() or ["?"])[-1]
        )


@contextmanager
def free_copy() -> Iterator[TreeCopy]:
    """A copy that no other run has."""
    for number in itertools.count():
        place = PLACES / str(number)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield TreeCopy(place)
            return


def _write(path: Path, content: bytes) -> None:
    """What is there already keeps its time: cargo builds again what is newer than what it has."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
