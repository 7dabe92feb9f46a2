"""Commands in Markdown: what the pages show as commands, and in which surroundings each can run.

A comment before a fence says where its commands run: `<!-- run: at a daemon -->`,
`<!-- run: as root -->`, or `<!-- not run: a cluster -->`. Without one they run anywhere.
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
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(
    r"(?:^<!-- (?P<surroundings>(?:not )?run: [a-z -]+) -->\n)?"
    r"^```(?P<language>sh|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ANYWHERE = "run: anywhere"


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


def check(command: Shown, folder: Path, *prefix: str) -> None:
    """Run it as a reader would, in bash. `prefix` leads into a namespace."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
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
        checker = doctest.OutputChecker()
        assert checker.check_output(command.output, done.stdout, doctest.ELLIPSIS), done.stdout


def expected_status(command: Shown) -> int:
    """0, or what its comment says: "ends with 1"."""
    ending = re.search(r"#.*ends with (\d)", command.command)
    return int(ending[1]) if ending else 0
