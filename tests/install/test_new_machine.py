"""A new machine: Python, the wheel, and the system's programs that a node has; no Rust, compiler or
headers. It walks through the quick start, and takes the time until a Service has answered.
`pytest -rP tests/install/test_new_machine.py` shows the times.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pages import ROOT, check, checkout, entered, shown
from harness.wheels import wheel
from install.test_wheel import TOOLS, run

QUICK_START = ROOT / "docs/quick-start.md"
PROGRAMS = ("bash", "conntrack", "curl", "ip", "ipset", "nft", "nsenter", "unshare")
"""Of the system, beside iptables' own."""
ANSWER = '{"host": "172.30.228.255"'


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """The wheel, the folder of an environment and of the examples, and how long the installation
    took.
    """
    if os.geteuid() != 0:
        pytest.skip("root is needed for network namespaces")
    package = wheel(tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("machine")
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    extras = ("install", "--only-binary", ":all:", "--quiet", f"{package}[proxy]")
    done = run(folder, "pip", *extras, timeout=600)
    if done.returncode:
        pytest.skip(f"pip reaches no index with the packages that the wheel needs: {done.stderr}")
    seconds = time.monotonic() - started
    for program in {*PROGRAMS, *(path.name for path in iptables())}:
        if (found := shutil.which(program)) is None:
            pytest.skip(f"{program} is not installed")
        (folder / "bin" / program).symlink_to(found)
    return package, checkout(folder), seconds


def iptables() -> Iterator[Path]:
    """The commands of iptables of both families."""
    for place in ("/usr/sbin", "/sbin"):
        yield from Path(place).glob("ip*tables*")


@pytest.fixture
def prefix(machine: tuple[Path, Path, float]) -> Iterator[tuple[str, ...]]:
    """What leads a command into a network and a /run of its own."""
    room, prefix = entered(machine[1], "unshare", "--net")
    try:
        yield prefix
    finally:
        room.kill()
        room.wait()


def test_a_service_answers_soon(machine: tuple[Path, Path, float], prefix: tuple[str, ...]) -> None:
    _, folder, installation = machine
    places = str(folder / "bin")
    assert [tool for tool in TOOLS if shutil.which(tool, path=places)] == []
    started = time.monotonic()
    demo = subprocess.Popen(
        [*prefix, folder / "bin/kbe-nat", "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": places, "PYTHONUNBUFFERED": "1"},
    )
    assert demo.stdout is not None
    answered = [time.monotonic() - started for line in demo.stdout if line.startswith(ANSWER)]
    assert demo.wait(60) == 0 and answered
    print(
        f"installed after {installation:.1f} s, a Service answered {answered[0]:.1f} s later,"
        f" the demo took {time.monotonic() - started:.1f} s"
    )
    # A bound that only a fault breaks, such as a package that is compiled here.
    assert installation + answered[0] < 300


def test_all_of_the_quick_start(machine: tuple[Path, Path, float], prefix: tuple[str, ...]) -> None:
    package, folder, _ = machine
    extras = ("install", "--only-binary", ":all:", "--quiet", f"{package}[lab]")
    done = run(folder, "pip", *extras, timeout=600)
    assert done.returncode == 0, done.stderr
    for command in shown(QUICK_START):
        if not command.surroundings.startswith("not run"):
            started = time.monotonic()
            check(command, folder, *prefix, places=str(folder / "bin"))
            print(f"{time.monotonic() - started:.1f} s: {command.command}")
