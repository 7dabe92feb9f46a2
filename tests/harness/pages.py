"""Commands in Markdown: what the pages show as commands, and in which surroundings each can run.

A comment before a fence says where its commands run: `<!-- run: at a daemon -->`,
`<!-- run: as root -->`, or `<!-- not run: a cluster -->`. Without one they run anywhere.

The output that a page shows behind a command, `$ COMMAND` in a fence `console`, is compared. `...`
stands for any text, and a run of blanks is one blank, as in doctests. A command that runs anywhere
prints the same each time, so all of the rest has to agree. At a daemon or as root there are a
clock, a kernel and other programs: there a number may be another one, with its unit of time, but
not an address (its port may) nor a number that is part of a word, such as `eth0` or `0x4000`.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(
    r"(?:^<!-- (?P<surroundings>(?:not )?run: [a-z -]+) -->\n)?"
    r"^```(?P<language>sh|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ANYWHERE = "run: anywhere"
NUMBER = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]*\d|(?P<kept>\d+(?:\.\d+){3}|[\d.]*\d(?=\.\.\.)|[\da-f]*(?::[\da-f]+)*::[\da-f:]*)"
    r"|(?<![\w.])\d+(?:[.,:]\d+)*(?:ms|[smhd])?(?!\w)"
)


ROOM = (
    "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up "
    "&& mkdir -p /etc/kbe-nat && mount -t tmpfs tmpfs /etc/kbe-nat && echo ready && exec sleep 600"
)
"""A view of the file system where /run and /etc/kbe-nat are empty."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a page, and what the page says that it prints."""

    page: Path
    line: int
    surroundings: str
    command: str
    output: str | None = None
    """None where the page shows none; `...` stands for any text."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {self.command.split(' #')[0]}"


def shown(page: Path) -> list[Shown]:
    """All commands of a page, in its order."""
    text = page.read_text()
    commands = []
    for fence in FENCE.finditer(text):
        surroundings = fence["surroundings"] or ANYWHERE
        line = text[: fence.start("text")].count("\n") + 1
        if fence["language"] == "console":
            for part in re.split(r"^\$ ", fence["text"], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                commands.append(Shown(page, line, surroundings, command, output))
        else:
            # A line that ends with a backslash or an operator goes on in the next one.
            for command in re.split(r"(?<![\\&|])\n", fence["text"].strip()):
                commands.append(Shown(page, line, surroundings, command))
    return commands


def checkout(folder: Path) -> Path:
    """The folder, with what the commands read. It is their home too."""
    for name in ("examples", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def entered(folder: Path, *prefix: str) -> tuple["subprocess.Popen[str]", tuple[str, ...]]:
    """A process that holds mounts of its own, and what leads a command there."""
    room = subprocess.Popen(
        [*prefix, "unshare", "--mount", "--propagation", "private", "sh", "-ec", ROOM],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert room.stdout is not None and room.stdout.readline() == "ready\n"
    return room, ("nsenter", f"--target={room.pid}", "--mount", "--net", f"--wd={folder}")


def check(command: Shown, folder: Path, *prefix: str, places: str = "") -> None:
    """Run it as a reader would, in bash. `prefix` leads into a namespace, `places` is the PATH."""
    places = places or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*prefix, "bash", "-euo", "pipefail", "-c", command.command],
        cwd=folder,
        env={**os.environ, "PATH": places, "COLUMNS": "200", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    expected = expected_status(command)
    assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stdout}"
    if command.output is not None:
        assert agrees(command, done.stdout), f"{command} prints\n{done.stdout}"


def agrees(command: Shown, printed: str) -> bool:
    """Whether a command printed what its page shows, by the rule above."""
    shown_text = command.output or ""
    if command.surroundings != ANYWHERE:
        shown_text, printed = without_numbers(shown_text), without_numbers(printed)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown_text, printed, flags)


def without_numbers(text: str) -> str:
    """The text with N for every number that may differ from run to run."""
    return NUMBER.sub(lambda found: found["kept"] or "N", text)


def expected_status(command: Shown) -> int:
    """0, or what its comment says: "ends with 1"."""
    ending = re.search(r"#.*ends with (\d)", command.command)
    return int(ending[1]) if ending else 0
