"""Builds the root filesystem of the image: `root.py --wheel WHEEL FOLDER`, on Debian 12 with pip
and the packages of `PACKAGES`. The Dockerfile runs it; so does a test, without a container engine.

The root has four parts: files of Debian packages (Python, the programs that the daemon runs, and
the libraries of both), the Python packages of requirements.txt (or of a folder, where no index is),
the wheel, and a few files written here. Of each Debian package it takes the files that `is_wanted`
accepts: there is no shell, and no program but those of `PROGRAMS`. The packages' descriptions go
along for scanners of images, their licences for readers.

The same wheel, Debian packages, requirements and SOURCE_DATE_EPOCH give the same bytes: files have
that time, no compiled module names its time or place, and `--tar` sorts the archive.
"""

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from python_packages import PYTHON, compile_modules, install

PACKAGES: Final = (f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libssl3", "nftables", "iproute2")
IPTABLES_PACKAGES: Final = ("iptables", "ipset")
"""For the datapath every-packet with rules of iptables."""
PROGRAMS: Final = frozenset({PYTHON, "nft", "ip", "ipset", "xtables-nft-multi"})
IPTABLES: Final = tuple(
    f"{name}{end}" for name in ("iptables", "ip6tables") for end in ("", "-restore", "-save")
)
"""Names under which xtables-nft-multi runs."""
UNNEEDED: Final = frozenset({"debconf", "libcap2-bin", "media-types", "readline-common"})
"""Packages for shells and for the installation, that others depend on."""
LIBRARIES: Final = re.compile(r"/(usr/)?lib(64)?/([^/]+-linux-gnu/(?!gconv/|perl)|[^/]+\.so)")
MODULES: Final = re.compile(
    rf"/usr/lib/{PYTHON}/(?!ensurepip|idlelib|lib2to3|pydoc_data|sitecustomize|tkinter|turtle|venv"
    r"|.*\.pyc$)"
)
SETTINGS: Final = re.compile(r"/etc/(iproute2/|ld\.so\.conf|protocols$|services$)")
LICENCES: Final = re.compile(r"/usr/share/doc/[^/]+/copyright$")
SITE: Final = f"usr/local/lib/{PYTHON}/dist-packages"
LAUNCHER: Final = f"""#!/usr/bin/{PYTHON} -I
import sys

from kbe_nat.__main__ import main

sys.exit(main())
"""
TEXTS: Final = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534::/:/nonexistent\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian, files of kbe-nat"\n',
}
FOLDERS: Final = ("dev", "etc/kbe-nat", "proc", "run/kbe-nat", "sys", "tmp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the root, and its archive where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel of kbe-nat")
    parser.add_argument(
        "--packages",
        type=Path,
        help="take Python packages from a folder of wheels, not from pip's index",
    )
    parser.add_argument("--tar", type=Path, help="write the root as an archive too")
    parser.add_argument("folder", type=Path, help="the new root, which does not exist or is empty")
    options = parser.parse_args(arguments)
    root: Path = options.folder
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        parser.error(f"{root} is not empty")
    add_links(root)
    for package in closure((*PACKAGES, *IPTABLES_PACKAGES)):
        add_package(root, package)
    install(root / SITE, root, options.wheel, options.packages)
    add_texts(root)
    compile_modules(root / f"usr/lib/{PYTHON}", root)
    subprocess.run(["ldconfig", "-r", root], check=True)
    (root / "var/cache/ldconfig/aux-cache").unlink(missing_ok=True)
    settle(root, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    if options.tar is not None:
        write_archive(root, options.tar)
    return 0


def closure(packages: Sequence[str]) -> list[str]:
    """These packages and all that they depend on, by name. Of alternatives the installed one."""
    seen: dict[str, None] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in seen or name in UNNEEDED:
            continue
        seen[name] = None
        for clause in filter(None, re.split(r",\s*", query(name, "${Pre-Depends},${Depends}"))):
            names = [re.split(r"[ :(]", choice.strip())[0] for choice in clause.split("|")]
            waiting += [choice for choice in names if is_installed(choice)][:1]
    return sorted(seen)


def query(package: str, field: str) -> str:
    """A field of a package's description. Raises CalledProcessError where it is not installed."""
    command = ["dpkg-query", "--show", f"--showformat={field}\n", package]
    # Of a package for two processors there are two lines: libraries of both are asked for alike.
    return subprocess.check_output(command, text=True).splitlines()[0]


def is_installed(package: str) -> bool:
    """Whether dpkg has the files of a package of this name."""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.startswith("installed")


def add_links(root: Path) -> None:
    """The merged /usr, before any file."""
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def add_package(root: Path, package: str) -> None:
    """The wanted files of a Debian package, and its description."""
    listing = subprocess.check_output(["dpkg-query", "--listfiles", package], text=True)
    for name in filter(is_wanted, listing.splitlines()):
        source, target = Path(name), root / name.lstrip("/")
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    # Where scanners look for the packages of an image without dpkg.
    status = root / "var/lib/dpkg/status.d" / package
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(subprocess.check_output(["dpkg-query", "--status", package], text=True))


def is_wanted(name: str) -> bool:
    """Whether a file of a package belongs into the root."""
    if re.match(r"/(usr/)?s?bin/", name):
        return Path(name).name in PROGRAMS
    return any(kind.match(name) for kind in (LIBRARIES, MODULES, SETTINGS, LICENCES))


def add_texts(root: Path) -> None:
    """Files and folders that no package brings."""
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    launcher = root / "usr/bin/kbe-nat"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    for name in IPTABLES:
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")


def paths(root: Path) -> Iterator[Path]:
    """Everything below the root in the order of names."""
    yield from sorted(root.rglob("*"))


def settle(root: Path, time: int) -> None:
    """The same modes and times everywhere, and no file that gives its user more rights."""
    for path in (*paths(root), root):
        if not path.is_symlink():
            is_program = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if is_program else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)
    (root / "run/kbe-nat").chmod(0o700)


def write_archive(root: Path, target: Path) -> None:
    """An archive of the root, whose bytes depend on the root alone."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in paths(root):
            name = str(path.relative_to(root))
            archive.add(path, name, recursive=False, filter=owned)


if __name__ == "__main__":
    sys.exit(main())
