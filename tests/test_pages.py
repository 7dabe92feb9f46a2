"""The commands of README and docs run as they stand, and print what the pages show."""

from pathlib import Path

import pytest

from harness.pages import ANYWHERE, PAGES, Shown, check, checkout, shown

COMMANDS = [each for page in PAGES for each in shown(page)]
REASONS = {
    "not run: a browser",
    "not run: a cluster",
    "not run: a container engine",
    "not run: a package index",
    "not run: many machines",
    "not run: minutes of time",
    "not run: systemd",
    "run: as root",
    "run: at a daemon",
    ANYWHERE,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, as in a checkout, for all commands of a module: later ones read what earlier
    ones have written.
    """
    return checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if each.surroundings == ANYWHERE], ids=str
)
def test_a_command_runs(command: Shown, folder: Path) -> None:
    check(command, folder)


def test_surroundings_are_those_that_somebody_makes() -> None:
    assert {each.surroundings for each in COMMANDS} == REASONS


def test_pages_show_commands() -> None:
    assert sum(each.surroundings == ANYWHERE for each in COMMANDS) > 30
    assert sum(each.output is not None for each in COMMANDS) >= 5


def test_a_command_that_fails_or_prints_something_else_is_noticed(folder: Path) -> None:
    page = PAGES[0]
    for command, output in (("kbe-nat get nonsense", None), ("echo one", "two\n")):
        with pytest.raises(AssertionError):
            check(Shown(page, 1, ANYWHERE, command, output), folder)
    check(Shown(page, 1, ANYWHERE, "echo one two", "one ...\n"), folder)
