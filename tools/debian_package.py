"""Builds the Debian package of a wheel: `debian_package.py WHEEL FOLDER`, on Debian 12.

Python packages go into /opt/kbe-nat, the command with its man pages and completions into /usr, the
configuration into /etc. The same wheel, requirements and SOURCE_DATE_EPOCH give the same bytes.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from command_files import write as write_command_files

ROOT: Final = Path(__file__).parents[1]
PACKAGING: Final = ROOT / "packaging"
sys.path.insert(0, str(ROOT / "deploy/image"))

from python_packages import PYTHON, install  # noqa: E402

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
LAUNCHER: Final = f"""#!/usr/bin/{PYTHON} -I
import sys

sys.path.insert(0, "/opt/kbe-nat/lib")

from kbe_nat.__main__ import main

sys.exit(main())
"""
FILES: Final = {
    "kbe-nat.service": "lib/systemd/system/kbe-nat.service",
    "kbe-nat.conf": "etc/kbe-nat/kbe-nat.conf",
    "sysusers.conf": "usr/lib/sysusers.d/kbe-nat.conf",
    "tmpfiles.conf": "usr/lib/tmpfiles.d/kbe-nat.conf",
    "cached.conf": "usr/share/doc/kbe-nat/examples/cached.conf",
    "debian/copyright": "usr/share/doc/kbe-nat/copyright",
    "debian/lintian-overrides": "usr/share/lintian/overrides/kbe-nat",
}
"""Files of `packaging/`, and where they go."""
SCRIPTS: Final = ("postinst", "prerm", "postrm")


def build(wheel: Path, folder: Path, packages: Path | None) -> Path:
    """The package in the folder. Raises OSError, CalledProcessError."""
    name = wheel.name.removesuffix(".whl").split("-")
    version, processor = name[1], re.sub(r".*?_(x86_64|aarch64)$", r"\1", name[-1])
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp())
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        add_files(root, version, seconds)
        install(root / "opt/kbe-nat/lib", root, wheel, packages)
        settle(root)
        add_control(root, version, ARCHITECTURES[processor])
        for path in (*root.rglob("*"), root):
            os.utime(path, (seconds, seconds), follow_symlinks=False)
        target = folder / f"kbe-nat_{version}-1_{ARCHITECTURES[processor]}.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, target],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(seconds)},
        )
    return target


def add_files(root: Path, version: str, seconds: int) -> None:
    """All but the Python packages."""
    for source, name in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGING / source, root / name)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/kbe-nat").write_text(LAUNCHER)
    write_command_files(root / "usr/share")
    for page in (root / "usr/share/man").rglob("*.1"):
        compress(page)
    date = format_datetime(datetime.fromtimestamp(seconds, UTC))
    changes = root / "usr/share/doc/kbe-nat/changelog.Debian"
    changes.write_text(
        f"kbe-nat ({version}-1) stable; urgency=medium\n\n"
        f"  * Version {version}: see changelog.gz.\n\n"
        f" -- The kbe-nat authors <kbe-nat@users.noreply.github.com>  {date}\n"
    )
    compress(changes)
    shutil.copyfile(ROOT / "CHANGELOG.md", changes.with_name("changelog"))
    compress(changes.with_name("changelog"))


def compress(path: Path) -> None:
    """In the place of a file its compressed form, without a time."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    path.unlink()


def settle(root: Path) -> None:
    """The modes of all files: nothing but commands is a program."""
    for path in root.rglob("*"):
        is_program = path.is_dir() or path.parent == root / "usr/bin"
        path.chmod(0o755 if is_program else 0o644)


def add_control(root: Path, version: str, architecture: str) -> None:
    """What dpkg reads, after all other files are there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    kilobytes = sum(-(-path.stat().st_size // 1024) for path in files)
    control = root / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(
        (PACKAGING / "debian/control")
        .read_text()
        .format(version=version, architecture=architecture, kilobytes=kilobytes, python=PYTHON)
    )
    settings = [path for path in files if path.is_relative_to(root / "etc")]
    (control / "conffiles").write_text("".join(f"/{path.relative_to(root)}\n" for path in settings))
    sums = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if path not in settings
    ]
    (control / "md5sums").write_text("".join(sums))
    for path in control.iterdir():
        path.chmod(0o644)
    for name in SCRIPTS:
        shutil.copyfile(PACKAGING / "debian" / name, control / name)
        (control / name).chmod(0o755)
    control.chmod(0o755)


def main() -> int:
    """Build the package that the command line asks for, and print its path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument(
        "--packages", type=Path, help="a folder of wheels, in the place of an index"
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    os.umask(0o022)
    print(build(options.wheel, options.folder, options.packages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
