"""Every verb and flag of `kbe-nat` that a page names exists as it is written there."""

import re
from collections.abc import Iterator

import click
import pytest

from harness.pages import PAGES
from kbe_nat.cli import app
from kbe_nat.kubeproxy.flags import FLAGS

COMMAND = re.compile(r"(?:^|\$ |[|;&(] ?)kbe-nat ((?:[^`\n#|;&>)])+)")
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `kbe-nat`, of each command in code."""
    for block, inline in CODE.findall(text):
        for line in (block.replace("\\\n", " ") or inline).splitlines():
            for match in COMMAND.findall(line):
                yield match.split()


def unknown(words: list[str]) -> str | None:
    """What of a command does not exist; None when all of it does."""
    command: click.Command = app
    context = click.Context(app, info_name="kbe-nat")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper():
            return None
        found = command.get_command(context, words[0])
        if found is None:
            return words[0]
        command, words = found, words[1:]
    parameters = command.get_params(click.Context(command, parent=context))
    known = {flag for each in parameters for flag in (*each.opts, *each.secondary_opts)}
    if command.name == "proxy":
        known |= {f"--{flag.removeprefix('--')}" for flag in FLAGS}
    flags = (word.partition("=")[0] for word in words if re.match(r"--[a-z]", word))
    return next((flag for flag in flags if flag not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_is_as_it_is_written(page: object) -> None:
    text = page.read_text()  # type: ignore[attr-defined]
    wrong = [(words, unknown(words)) for words in commands(text)]
    assert [each for each in wrong if each[1] is not None] == []


def test_what_does_not_exist_is_noticed() -> None:
    assert sum(len(list(commands(page.read_text()))) for page in PAGES) > 150
    text = "`kbe-nat gett svc` `kbe-nat explain --life`\n```sh\nkbe-nat lab running # x\n```\n"
    assert list(map(unknown, commands(text))) == ["gett", "--life", "running"]
    assert unknown(["proxy", "--hostname-override=a", "--take-over"]) is None
