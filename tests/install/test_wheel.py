"""The wheel, as a user without Rust, a compiler or headers installs it: for every CPython on this
machine. `KBE_NAT_WHEEL` names a wheel to be tried; without it one is packed of the build of this
tree, which no compiler need touch. Packages come from pip's index, so without one this is skipped.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.wheels import ROOT, wheel

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TOOLS = ("cargo", "rustc", "gcc", "cc", "clang", "ld")


def interpreters() -> list[Path]:
    """A CPython of each version that the wheel serves."""
    places = [Path(place) for place in os.environ["PATH"].split(":")]
    places += sorted((Path.home() / ".pyenv/versions").glob("*/bin"))
    places += [Path(sys.base_prefix) / "bin"]
    binaries: dict[str, Path] = {}
    for version in PYTHONS:
        for place in places:
            path = place / f"python{version}"
            # A shim of pyenv is a script that may lead nowhere.
            if path.exists() and path.read_bytes()[:4] == b"\x7fELF":
                binaries.setdefault(version, path)
    return list(binaries.values())


@pytest.fixture(scope="module", params=interpreters(), ids=lambda path: path.name)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel in it, and the folder of its commands."""
    folder = tmp_path_factory.mktemp("environment")
    package = wheel(tmp_path_factory.mktemp("wheel"))
    subprocess.run([request.param, "-m", "venv", folder], check=True, env=bare(folder))
    done = run(folder, "pip", "install", "--only-binary", ":all:", "--quiet", package, timeout=300)
    if re.search("Could not find a version|connection|resolve", done.stderr, re.IGNORECASE):
        pytest.skip(f"pip reaches no index with the packages that the wheel needs: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return folder


def bare(folder: Path) -> dict[str, str]:
    """An environment whose PATH leads to no compiler."""
    kept = ("HOME", "LANG", "LC_ALL", "PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "https_proxy")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    return {**variables, "PATH": str(folder / "bin"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(
    folder: Path, command: str, *arguments: object, cwd: Path | None = None, timeout: float = 60
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [folder / "bin" / command, *map(str, arguments)],
        env=bare(folder),
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_there_is_an_interpreter_to_try_it_with() -> None:
    assert interpreters()


def test_no_compiler_is_at_hand(environment: Path) -> None:
    assert [tool for tool in TOOLS if shutil.which(tool, path=bare(environment)["PATH"])] == []


def test_the_command_answers(environment: Path) -> None:
    done = run(environment, "kbe-nat", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"kbe-nat \d+\.\d+\.\d+\n", done.stdout)


def test_it_replays_a_capture(environment: Path) -> None:
    objects, capture = ROOT / "examples/simpleservice/cluster.yaml", ROOT / "examples/traffic.pcap"
    done = run(environment, "kbe-nat", "replay", "-f", objects, capture, "--seed", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "default/simpleservice" in done.stdout


def test_examples_of_the_readme_and_of_the_package_are_true(environment: Path) -> None:
    program = (
        "import doctest, kbe_nat\n"
        "readme = doctest.testfile('README.md', module_relative=False)\n"
        "package = doctest.testmod(kbe_nat)\n"
        "assert readme.attempted and package.attempted\n"
        "assert not readme.failed and not package.failed\n"
    )
    for name in ("README.md", "examples"):
        target = environment / name
        if not target.exists():
            target.symlink_to(ROOT / name)
    done = run(environment, "python", "-c", program)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_proxy_names_the_extra_that_it_lacks(environment: Path) -> None:
    done = run(environment, "kbe-nat", "doctor", "-o", "json")
    assert "pip install 'kbe-nat[proxy]'" in done.stdout


def test_the_whole_is_small(environment: Path) -> None:
    [site] = environment.glob("lib/python*/site-packages")
    sizes: dict[str, int] = {}
    for file in site.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pth":
            part = file.relative_to(site).parts[0]
            sizes[part] = sizes.get(part, 0) + file.stat().st_size
    others = {
        name: size
        for name, size in sizes.items()
        if not name.startswith(("kbe_nat", "pip", "setuptools", "pkg_resources", "_distutils_hack"))
    }
    assert sum(others.values()) < 6 << 20, others
