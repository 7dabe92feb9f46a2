"""Installs the wheel, and the Python packages that its daemon needs, into a folder for Debian's
Python: for the image and for the Debian package.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

PYTHON: Final = "python3.11"
"""That of Debian 12, also the name of its package."""


def install(folder: Path, root: Path, wheel: Path, packages: Path | None) -> None:
    """The wheel with its packages, compiled: those that requirements.txt pins by digest, or those
    of a folder of wheels, where no index is. `root` is what will be `/`. Raises
    CalledProcessError; pip has then said why.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    pip += ["--target", str(folder), "--python-version", PYTHON.removeprefix("python")]
    pip += ["--only-binary=:all:", "--no-compile", "--upgrade"]
    if packages is None:
        requirements = Path(__file__).with_name("requirements.txt")
        pinned = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
        subprocess.run([*pip, *pinned], check=True)
        subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    else:
        source = ["--no-index", "--find-links", str(packages)]
        subprocess.run([*pip, *source, f"{wheel}[proxy]"], check=True)
    # Commands of the packages, which have the path of pip's Python in their first line.
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for record in folder.glob("*.dist-info/direct_url.json"):
        record.unlink()
    compile_modules(folder, root)


def compile_modules(folder: Path, root: Path) -> None:
    """Compiled modules: nobody may write them when they run. They are never compared with their
    sources, and have no path of the machine that compiles.
    """
    command = [
        f"/usr/bin/{PYTHON}",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "-s",
        str(root),
        "-p",
        "/",
    ]
    subprocess.run([*command, "--invalidation-mode", "unchecked-hash", str(folder)], check=True)
