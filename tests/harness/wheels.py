"""The wheel of this tree, and wheels of packages that are installed."""

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def wheel(folder: Path) -> Path:
    """The wheel that `KBE_NAT_WHEEL` names; else one packed of the build of this tree into a
    folder, which no compiler need touch.
    """
    if named := os.environ.get("KBE_NAT_WHEEL"):
        return Path(named)
    native = ROOT / "python/kbe_nat/_native.abi3.so"
    if not native.exists():
        pytest.skip("there is no build of this tree to be packed: make build")
    # maturin would compile again with other settings than those of the build that is tested.
    done = subprocess.run(
        ["maturin", "pep517", "write-dist-info", "--metadata-directory", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [info] = folder.glob("*.dist-info")
    path = folder / f"{info.name.removesuffix('.dist-info')}-cp311-abi3-linux_x86_64.whl"
    files = [*(ROOT / "python").rglob("*"), *info.rglob("*")]
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            base = folder if file.is_relative_to(folder) else ROOT / "python"
            if file.is_file() and "__pycache__" not in file.parts:
                content = stripped(file, folder) if file == native else file
                archive.write(content, file.relative_to(base))
        names = [*archive.namelist(), f"{info.name}/RECORD"]
        archive.writestr(names[-1], "".join(f"{name},,\n" for name in names))
    return path


def stripped(library: Path, folder: Path) -> Path:
    """The library without symbols, as `make wheel` leaves it: a tenth of the size."""
    if shutil.which("strip") is None:
        return library
    target = folder / "stripped"
    subprocess.run(["strip", "--strip-unneeded", "-o", target, library], check=True)
    return target


def repack(requirements: Iterable[str], folder: Path) -> None:
    """Wheels of installed packages, for an installation that reaches no index."""
    for line in requirements:
        if match := re.match(r"([\w.-]+)==", line):
            _repack(distribution(match[1]), folder)


def _repack(package: Distribution, folder: Path) -> None:
    [tag, *_] = re.findall(r"(?m)^Tag: (\S+)", package.read_text("WHEEL") or "")
    name = re.sub(r"[-_.]+", "_", package.name)
    with zipfile.ZipFile(folder / f"{name}-{package.version}-{tag}.whl", "w") as archive:
        for file in package.files or ():
            # Commands stand outside of the packages' folder.
            if ".." not in file.parts and "__pycache__" not in file.parts:
                archive.write(str(file.locate()), str(file))
