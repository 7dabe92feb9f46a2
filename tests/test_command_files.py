"""Man pages and completions, as packages bring them: made by `tools/command_files.py`, read by the
programs that operators read them with.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_files import COMPLETIONS, beginning, contexts
from roff import Roff

from harness.wheels import ROOT
from kbe_nat.cli import app

PATHS = [context.command_path for context in contexts(beginning(app, "kbe-nat"))]


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("share"))


def write(folder: Path) -> Path:
    program = ROOT / "tools/command_files.py"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([sys.executable, program, folder], check=True, env=environment, timeout=60)
    return folder


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def rendered(path: Path) -> str:
    """A page as `man` shows it, without a warning of groff's."""
    environment = {**os.environ, "MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["man", "--warnings", "--local-file", "--pager=cat", path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return " ".join(re.sub(r".\x08|\x1b\[[\d;]*m", "", done.stdout).split())


def test_every_command_has_its_page_and_no_other_is_there(share: Path) -> None:
    pages = {path.name for path in (share / "man/man1").iterdir()}
    assert {"kbe-nat.1", "kbe-nat-proxy.1", "kbe-nat-lab-run.1"} <= pages
    assert pages == {f"{path.replace(' ', '-')}.1" for path in PATHS}


@needs("man")
@pytest.mark.parametrize("path", PATHS)
def test_a_page_says_what_the_help_says(share: Path, path: str) -> None:
    context = next(
        each for each in contexts(beginning(app, "kbe-nat")) if each.command_path == path
    )
    text = rendered(share / f"man/man1/{path.replace(' ', '-')}.1")
    assert " ".join((context.command.help or "").split()) in text
    for each in context.command.get_params(context):
        if isinstance(each, click.Option) and (row := each.get_help_record(context)):
            term, description = row
            assert f"{term} {' '.join(description.split())}" in text
        elif isinstance(each, click.Argument):
            assert each.make_metavar(context) in text
    for example in getattr(context.command, "examples", []):
        assert " ".join(example.split()) in text


@needs("lexgrog")
def test_apropos_finds_every_page_by_its_line(share: Path) -> None:
    pages = sorted((share / "man/man1").iterdir())
    done = subprocess.run(["lexgrog", *pages], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "kbe-nat-drain - Let a backend's connections run out\"" in done.stdout


@needs("man")
def test_texts_that_look_like_requests_are_shown(tmp_path: Path) -> None:
    roff = Roff("x", "2026-01-01", "x 1")
    roff.section("Name")
    roff.raw("x \\- y")
    roff.lines([".br is a word", "'x' and a\\b stay", "--flag-name"])
    (tmp_path / "x.1").write_text(roff.text)
    assert rendered(tmp_path / "x.1").find(".br is a word 'x' and a\\b stay --flag-name") > 0


def test_files_are_alike_each_time(share: Path, tmp_path: Path) -> None:
    again = write(tmp_path)
    for path in share.rglob("*.*"):
        if path.is_file():
            assert (again / path.relative_to(share)).read_bytes() == path.read_bytes()


SHELLS = {
    "bash": (
        "complete() {{ :; }}; source {file}; COMP_WORDS=(kbe-nat pro); COMP_CWORD=1; "
        "_kbe_nat_completion kbe-nat pro kbe-nat; echo ${{COMPREPLY[@]}}"
    ),
    "fish": 'source {file}; complete --do-complete "kbe-nat pro"',
    "zsh": (
        "compdef() {{ :; }}; compadd() {{ :; }}; _describe() {{ print -l ${{(P)3}}; }}; "
        "words=(kbe-nat pro); CURRENT=2; source {file}; _kbe_nat_completion"
    ),
}
"""Programs that ask a shell's script for the verbs that begin with `pro`."""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_by_its_script(share: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = share / COMPLETIONS[shell]
    words = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["--no-rcs"]}[shell]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, *words, "-c", SHELLS[shell].format(file=file)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert re.search(r"(?m)^proxy\b", done.stdout), done.stdout + done.stderr
    assert "doctor" not in done.stdout
