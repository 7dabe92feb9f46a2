"""Checks a release: the repository's versions, and tags, contents and size of what `make wheel` has
built.

`tools/release.py` checks versions alone, before minutes are spent on building; `tools/release.py
DIST` the files too. Each names every fault on a line of its own, and ends with 1 where there is
one. Nothing is uploaded.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parent.parent
TAG: Final = "cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64"
MAX_WHEEL: Final = 5 << 19
MAX_SDIST: Final = 3 << 20
NEEDED: Final = ("LICENSE-MIT", "LICENSE-APACHE", ".cyclonedx.json", "_native.abi3.so", "py.typed")
"""Ends of names that a wheel has."""
UNWANTED: Final = ("/tests/", "/target/", ".venv/", ".pcapng")


def faults(dist: Path | None = None) -> Iterator[str]:
    """Every reason not to release this tree, or these files that were built of it."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    yield from _version_faults(version)
    if dist is None:
        return
    wheels, sdists = sorted(dist.glob("*.whl")), sorted(dist.glob("*.tar.gz"))
    names = [path.name for path in (*wheels, *sdists)]
    expected = [f"kbe_nat-{version}-{TAG}.whl", f"kbe_nat-{version}.tar.gz"]
    if names != expected:
        yield f"{dist}: has {', '.join(names) or 'nothing'}, and not {', '.join(expected)}"
        return
    yield from _wheel_faults(wheels[0])
    if sdists[0].stat().st_size > MAX_SDIST:
        yield f"{sdists[0]}: {sdists[0].stat().st_size} bytes are too many"


def _version_faults(version: str) -> Iterator[str]:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    if str(citation["version"]) != version:
        yield f"CITATION.cff: version {citation['version']} is not {version} (Cargo.toml)"
    chart = yaml.safe_load((ROOT / "deploy/helm/kbe-nat/Chart.yaml").read_text())
    for field in ("version", "appVersion"):
        if chart[field] != version:
            yield f"Chart.yaml: {field} {chart[field]} is not {version} (Cargo.toml)"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if citation["license"] != project["license"]:
        yield f"CITATION.cff: license {citation['license']} is not {project['license']}"
    if citation["repository-code"] != project["urls"]["Source"]:
        yield "CITATION.cff: repository-code is not the Source of pyproject.toml"
    if not re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M):
        yield f"CHANGELOG.md: there is no section {version}: rename Unreleased"


def _wheel_faults(wheel: Path) -> Iterator[str]:
    if wheel.stat().st_size > MAX_WHEEL:
        yield f"{wheel}: {wheel.stat().st_size} bytes are too many: is it stripped?"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for end in NEEDED:
        if not any(name.endswith(end) for name in names):
            yield f"{wheel}: nothing in it ends with {end}"
    for part in UNWANTED:
        yield from (f"{wheel}: {name} is not wanted in it" for name in names if part in name)
    shown = subprocess.run(
        ["auditwheel", "show", str(wheel)], capture_output=True, text=True, check=False
    )
    if "manylinux_2_17_x86_64" not in " ".join(shown.stdout.split()):
        yield f"{wheel}: auditwheel does not find it consistent with manylinux_2_17: {shown.stdout}"


def main() -> int:
    """Say every fault."""
    reasons = list(faults(*map(Path, sys.argv[1:2])))
    for fault in reasons:
        print(fault)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
