"""The pages of options and annotations have all that there is, found here in other ways."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kbe_nat.cli import app
from kbe_nat.kubeproxy.flags import FLAGS

ROOT = Path(__file__).parents[1]
KEY = re.compile(r"[a-z0-9][a-z0-9.-]*\.io/[a-z-]+|ToBe\w+")
OF_WATCHES = {"k8s.io/initial-events-end"}
"""Annotations of bookmarks, which are no objects."""


@pytest.mark.parametrize("name", ["options", "annotations", "configuration-fields"])
def test_a_written_page_is_up_to_date(name: str) -> None:
    tool = {"configuration-fields": "fields"}.get(name, name)
    subprocess.run([sys.executable, ROOT / f"tools/{tool}_page.py", "--check"], check=True)


def commands(path: str, command: click.Command) -> dict[str, click.Command]:
    """A command and those below it, by their paths."""
    found = {path: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found |= commands(f"{path} {name}", inner)
    return found


COMMANDS = commands("kbe-nat", app)


@pytest.mark.parametrize("path", COMMANDS)
def test_the_page_has_every_option_of_a_verb(path: str) -> None:
    page = (ROOT / "docs/options.md").read_text()
    assert f"\n## {path}\n" in page
    section = page.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
    written = set(re.findall(r"(?<![\w-])--?[\w-]+", section.partition("\n| ")[2]))
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            missing = {*parameter.opts, *parameter.secondary_opts} - written
            assert not missing
        else:
            name = parameter.make_metavar(click.Context(COMMANDS[path])).replace("|", "\\|")
            assert f"| `{name}` |" in section


def test_the_page_has_every_flag_of_kube_proxy() -> None:
    page = (ROOT / "docs/options.md").read_text().partition("\n## Flags of kube-proxy\n")[2]
    assert re.findall(r"^\| `--([\w-]+)` \|", page, re.MULTILINE) == sorted(FLAGS)


def test_the_page_has_every_key_that_the_sources_read() -> None:
    keys = {
        node.value
        for room in ("sources", "policy", "control")
        for path in (ROOT / "python/kbe_nat" / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if KEY.fullmatch(node.value)
    }
    page = (ROOT / "docs/annotations.md").read_text()
    assert len(keys) > 8
    assert keys - OF_WATCHES == set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
