"""The commands of README and docs run as they stand, and print what the pages show."""

from pathlib import Path

import pytest

from harness.pages import ANYWHERE, PAGES, Shown, agrees, check, checkout, shown

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


@pytest.mark.parametrize(
    ("shown_text", "printed", "is_same"),
    [
        ("10.0.0.1:40000 has 3 flows, 1.5 s", "10.0.0.1:50123   has 4 flows, 0.25 s", True),
        ("at 13:27:31: 65,536 of 0x4000", "at 09:00:01: 1 of 0x4000", True),
        ("2026-11-29T13:30:26.9  tcp", "2026-11-30T02:12:06.0  tcp", True),
        ("10.0.0.1:40000", "10.0.0.2:40000", False),
        ("2001:db8::1", "2001:db8::2", False),
        ("AGE 1s, 90 ms", "AGE 12m, 3 ms", True),
        ("eth0", "eth1", False),
        ("3 flows", "no flows", False),
        ("mark=0x4000", "mark=0x8000", False),
        ("172.17.0...:80", "172.17.0.4:80", True),
    ],
)
def test_numbers_may_differ_where_commands_meet_a_kernel(
    shown_text: str, printed: str, is_same: bool
) -> None:
    assert agrees(Shown(PAGES[0], 1, "run: as root", "", shown_text), printed) is is_same


def test_numbers_are_compared_where_nothing_varies() -> None:
    assert not agrees(Shown(PAGES[0], 1, ANYWHERE, "", "3 flows"), "4 flows")
