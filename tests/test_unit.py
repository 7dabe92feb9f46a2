"""The systemd unit, as text and as systemd reads it."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from command_files import write

from kbe_nat.commands import ENDING_SECONDS
from kbe_nat.kubeproxy.config import read_configuration
from kbe_nat.rules.commands import LIMIT_SECONDS
from kbe_nat.server.slots import MAX_CONNECTIONS

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "kbe-nat.service"
CACHED = PACKAGING / "cached.conf"
CONFIGURATION = "/etc/kbe-nat/kbe-nat.conf"


@pytest.fixture
def settings() -> dict[str, list[str]]:
    """Values by name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_load_balancers_may_ask(settings: dict[str, list[str]]) -> None:
    """systemd's filter holds for sockets that listen too, so it must not keep out whoever asks for
    health.
    """
    for name in (
        "IPAddressDeny",
        "SocketBindDeny",
        "RestrictNetworkInterfaces",
        "PrivateNetwork",
        "IPIngressFilterPath",
    ):
        assert name not in settings, name
    assert {"AF_INET", "AF_INET6"} <= set(settings["RestrictAddressFamilies"][0].split())


def test_f127_it_is_bounded_and_has_what_it_needs(settings: dict[str, list[str]]) -> None:
    assert settings["MemoryMax"] == ["2G"]
    assert int(settings["TasksMax"][0]) >= 64 + 2 * 64, (
        "a thread for each of 64 queues, and commands"
    )
    assert int(settings["LimitNOFILE"][0]) >= 16 * MAX_CONNECTIONS


def test_f131_its_patience_is_longer_than_ours(settings: dict[str, list[str]]) -> None:
    """A command that hangs must not have the daemon killed: the next one would meet it too."""
    [watchdog], [stop] = settings["WatchdogSec"], settings["TimeoutStopSec"]
    assert int(watchdog.removesuffix("s")) >= 2 * LIMIT_SECONDS
    assert int(stop.removesuffix("s")) > ENDING_SECONDS + 1


def test_the_drop_in_of_cached_gives_what_its_programs_need(
    settings: dict[str, list[str]],
) -> None:
    """systemd adds each to the unit's own."""
    lines = [line for line in CACHED.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        "[Service]",
        "CapabilityBoundingSet=CAP_BPF CAP_PERFMON",
        "AmbientCapabilities=CAP_BPF CAP_PERFMON",
        "SystemCallFilter=bpf",
    ]
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert "BPF" not in "".join(settings[name]), "without it the unit has no such right"


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("is_cached", [False, True])
def test_systemd_understands_it(tmp_path: Path, is_cached: bool) -> None:
    if is_cached:
        (tmp_path / f"{UNIT.name}.d").mkdir()
        shutil.copy(CACHED, tmp_path / f"{UNIT.name}.d")
    # The command is where it would be installed.
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "ExecStart=kbe-nat proxy " in text
    unit.write_text(text.replace("=kbe-nat proxy", "=/bin/true proxy"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "kbe-nat" in line]
    assert not said, said
    assert done.returncode == 0, done.stderr


def test_its_documentation_is_a_page_and_pages_of_the_manual(
    settings: dict[str, list[str]], tmp_path: Path
) -> None:
    """`systemctl status` and `systemctl help` show them."""
    [text] = settings["Documentation"]
    page, *manuals = text.split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path = page.removeprefix(f"{project['urls']['Source']}/blob/main/")
    assert path != page and (ROOT / path).is_file()
    write(tmp_path)
    written = {path.name for path in (tmp_path / "man/man1").iterdir()}
    for manual in manuals:
        name = manual.removeprefix("man:").replace("(", ".").removesuffix(")")
        assert name in written, manual


def test_its_configuration_is_read_without_a_note(settings: dict[str, list[str]]) -> None:
    [start] = settings["ExecStart"]
    assert f"--config {CONFIGURATION}" in start
    configuration, notes = read_configuration(PACKAGING / "kbe-nat.conf")
    assert (configuration.kbe_nat, notes) == ({"manifests": ["/etc/kbe-nat/objects"]}, ())
    # What stands behind a mark of a comment without a space is true as well.
    lines = (PACKAGING / "kbe-nat.conf").read_text().splitlines()
    kubeconfig = next(line for line in lines if line.startswith("#  kubeconfig: "))
    assert kubeconfig.removeprefix("#") == "  kubeconfig: /etc/kbe-nat/kubeconfig"


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None,
    reason="systemd is not installed",
)
@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to make users and their folders")
def test_systemd_makes_its_user_and_its_folders(
    settings: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    for program, *words in (("sysusers",), ("tmpfiles", "--create")):
        done = subprocess.run(
            [f"systemd-{program}", f"--root={tmp_path}", *words, PACKAGING / f"{program}.conf"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    [user] = settings["User"]
    assert f"\n{user}:" in "\n" + (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "etc/kbe-nat/objects").stat().st_mode & 0o7777 == 0o755
