"""The Debian package, as dpkg and a user see it: built of the wheel of this tree, installed into a
root of its own, run, and removed.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.wheels import ROOT, repack, wheel

BUILDER = ROOT / "tools/debian_package.py"
PYTHON = Path("/usr/bin/python3.11")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of the wheels that the wheel needs, and the wheel."""
    if sys.version_info[:2] != (3, 11) or not PYTHON.exists():
        pytest.skip("Python 3.11 of Debian 12, and packages for it, are not here")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    others = tmp_path_factory.mktemp("packages")
    repack((ROOT / "deploy/image/requirements.txt").read_text().splitlines(), others)
    return others, wheel(tmp_path_factory.mktemp("wheel"))


def build(folder: Path, sources: tuple[Path, Path]) -> Path:
    done = subprocess.run(
        [sys.executable, BUILDER, "--packages", *sources, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def package(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build(tmp_path_factory.mktemp("package"), sources)
    assert re.fullmatch(r"kbe-nat_\d+\.\d+\.\d+-1_(amd64|arm64)\.deb", path.name)
    return path


@pytest.fixture(scope="module")
def root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True, timeout=60)
    return folder


def field(package: Path, name: str) -> str:
    return subprocess.check_output(["dpkg-deb", "--field", package, name], text=True).strip()


def in_opt(root: Path, *command: object) -> "subprocess.CompletedProcess[str]":
    """A command that sees the /opt of the unpacked package."""
    program = 'mount --bind "$0/opt" /opt && exec "$@"'
    unshare = ("unshare", "--mount", "--propagation", "private", "sh", "-c", program)
    words = [*unshare, str(root), *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount and to install")


def test_its_files_stand_where_systemd_man_and_shells_look(root: Path) -> None:
    for name in (
        "lib/systemd/system/kbe-nat.service",
        "usr/lib/sysusers.d/kbe-nat.conf",
        "usr/lib/tmpfiles.d/kbe-nat.conf",
        "usr/share/man/man1/kbe-nat-proxy.1.gz",
        "usr/share/bash-completion/completions/kbe-nat",
        "usr/share/zsh/vendor-completions/_kbe-nat",
        "usr/share/fish/vendor_completions.d/kbe-nat.fish",
        "usr/share/doc/kbe-nat/copyright",
    ):
        assert (root / name).is_file(), name
    page = gzip.decompress((root / "usr/share/man/man1/kbe-nat-proxy.1.gz").read_bytes())
    assert b"\\-\\-manifests" in page
    assert "Permission is hereby granted" in (root / "usr/share/doc/kbe-nat/copyright").read_text()


def test_the_unit_starts_the_command_of_the_package(root: Path) -> None:
    unit = (root / "lib/systemd/system/kbe-nat.service").read_text()
    [start] = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    command, _, _, configuration, *_ = start.split()
    # systemd looks in /usr/bin too.
    assert os.access(root / "usr/bin" / command, os.X_OK)
    assert (root / configuration.lstrip("/")).is_file()


def test_programs_are_those_that_the_package_depends_on(package: Path, root: Path) -> None:
    depends = field(package, "Depends")
    launcher = (root / "usr/bin/kbe-nat").read_text()
    assert launcher.startswith(f"#!{PYTHON} -I\n") and PYTHON.name in depends
    assert {"nftables", "iproute2", "systemd"} <= set(re.split(r",\s*", depends))
    programs = [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o111]
    assert programs == [root / "usr/bin/kbe-nat"]


@needs_root
def test_the_command_runs_from_it(root: Path) -> None:
    done = in_opt(root, root / "usr/bin/kbe-nat", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"kbe-nat \d+\.\d+\.\d+\n", done.stdout)


@needs_root
def test_the_daemon_has_its_packages_in_it(root: Path) -> None:
    done = in_opt(root, root / "usr/bin/kbe-nat", "doctor")
    assert re.search(r"(?m)^packages +ok\b", done.stdout), done.stdout + done.stderr
    program = "import sys; sys.path.insert(0, '/opt/kbe-nat/lib'); import aiohttp, kbe_nat; "
    program += "print(aiohttp.__file__, kbe_nat.__file__)"
    done = in_opt(root, PYTHON, "-I", "-c", program)
    assert re.fullmatch(r"(/opt/kbe-nat/lib/\S+\s){2}", done.stdout), done.stderr


def test_it_is_built_alike_twice(package: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    assert build(tmp_path, sources).read_bytes() == package.read_bytes()


def test_the_sums_of_its_files_are_true(package: Path, root: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--control", package, tmp_path], check=True, timeout=60)
    subprocess.run(
        ["md5sum", "--check", "--quiet", "--strict", tmp_path / "md5sums"], cwd=root, check=True
    )
    sums = {line.split("  ")[1] for line in (tmp_path / "md5sums").read_text().splitlines()}
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files - sums == {"etc/kbe-nat/kbe-nat.conf"}
    assert (tmp_path / "conffiles").read_text() == "/etc/kbe-nat/kbe-nat.conf\n"


def dpkg(root: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """dpkg on a root whose scripts run outside of it, and whose other packages are not there."""
    flags = [f"--root={root}", f"--log={root}/log", "--force-script-chrootless", "--force-depends"]
    command = ["dpkg", *flags, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@needs_root
@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
def test_dpkg_installs_it_and_a_purge_leaves_nothing(package: Path, tmp_path: Path) -> None:
    for name in ("etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").touch()
    done = dpkg(tmp_path, "--install", package)
    assert done.returncode == 0, done.stderr
    assert "kbe-nat:" in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "etc/kbe-nat/objects").is_dir()
    (tmp_path / "etc/kbe-nat/kbe-nat.conf").write_text("# changed\n")
    done = dpkg(tmp_path, "--force-confold", "--install", package)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/kbe-nat/kbe-nat.conf").read_text() == "# changed\n"
    done = dpkg(tmp_path, "--purge", "kbe-nat")
    assert done.returncode == 0, done.stderr
    left = [path for path in tmp_path.rglob("*kbe-nat*") if "var" not in path.parts]
    assert left == []


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_finds_no_fault_that_has_no_reason(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "")
