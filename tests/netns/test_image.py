"""The image's root filesystem, built as its Dockerfile builds it, and run as a container engine
would: read-only, with the manifests' capabilities and no other.
"""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.daemons import Daemon
from harness.programs import CONFINED, SHORT_SERVER, UDP_ECHO
from harness.stage import FAMILIES, PODS, VIPS, add_ipv6, served
from harness.waiting import eventually
from harness.wheels import ROOT, repack, wheel
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

SCRIPT = ROOT / "deploy/image/root.py"
OBJECTS = """apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  clusterIP: "{vip}"
  ports: [{{name: tcp, port: 81, targetPort: 5002}}, {{name: udp, port: 7, protocol: UDP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: echo-1, labels: {{kubernetes.io/service-name: echo}}}}
addressType: {type}
ports: [{{name: tcp, port: 5002}}, {{name: udp, port: 7, protocol: UDP}}]
endpoints: [{{addresses: ["{pod}"]}}]
"""


@dataclass(frozen=True)
class Wheels:
    """The wheel, and the folder of those that it needs."""

    own: Path
    others: Path


def build(folder: Path, wheels: Wheels) -> tuple[Path, str]:
    """A root, and the digest of its archive."""
    sources = ("--wheel", wheels.own, "--packages", wheels.others)
    command = (sys.executable, SCRIPT, *sources, "--tar", folder / "tar", folder / "root")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder / "root", hashlib.sha256((folder / "tar").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    if sys.version_info[:2] != (3, 11) or not Path("/usr/bin/python3.11").exists():
        pytest.skip("Python 3.11 of Debian 12, and packages for it, are not here")
    for program in ("dpkg-query", "nft", "iptables", "ipset"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    others = tmp_path_factory.mktemp("packages")
    repack((ROOT / "deploy/image/requirements.txt").read_text().splitlines(), others)
    return Wheels(wheel(tmp_path_factory.mktemp("wheel")), others)


@pytest.fixture(scope="module")
def built(wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return build(tmp_path_factory.mktemp("image"), wheels)


@pytest.fixture(scope="module")
def root(built: tuple[Path, str]) -> Path:
    return built[0]


def confined(root: Path, folder: Path, user: int = 0, capabilities: str = "12") -> tuple[str, ...]:
    """The words before a command that runs it in the root, with a folder's `objects` as its
    configuration and the folder as its state.
    """
    for place in (folder, folder / "objects"):
        place.mkdir(exist_ok=True)
    os.chown(folder, user, user)
    unshare = ("unshare", "--mount", "--propagation", "private", sys.executable, str(CONFINED))
    return (*unshare, str(user), capabilities, str(root), str(folder / "objects"), str(folder))


def run(root: Path, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    words = [*confined(root, folder), *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_it_has_no_shell_and_no_program_beside_its_own(root: Path) -> None:
    programs = {path.name for place in ("bin", "sbin") for path in (root / place).iterdir()}
    tables = {
        f"{name}{end}" for name in ("iptables", "ip6tables") for end in ("", "-restore", "-save")
    }
    assert programs - tables == {"kbe-nat", "python3.11", "nft", "ip", "ipset", "xtables-nft-multi"}


def test_no_file_gives_rights_or_can_be_written_by_others(root: Path) -> None:
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        assert path.is_symlink() or not mode & 0o6022, path


def test_every_link_leads_to_a_file_of_the_root(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_symlink():
            link = path.readlink()
            target = root / str(link).lstrip("/") if link.is_absolute() else path.parent / link
            assert target.exists() and target.resolve().is_relative_to(root), path


def test_scanners_find_its_packages_and_readers_their_licences(root: Path) -> None:
    packages = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3", "nftables", "python3.11-minimal"} <= packages
    assert "Version: " in (root / "var/lib/dpkg/status.d/nftables").read_text()
    assert (root / "usr/share/doc/nftables/copyright").exists()


def test_it_is_built_alike_twice(
    built: tuple[Path, str], wheels: Wheels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert build(tmp_path_factory.mktemp("again"), wheels)[1] == built[1]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, wheels: Wheels) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").touch()
    command = (sys.executable, SCRIPT, "--wheel", wheels.own, tmp_path / "root")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/root is not empty" in done.stderr


def test_the_command_answers_in_it(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path, "kbe-nat", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"kbe-nat \d+\.\d+\.\d+\n", done.stdout)


def test_the_command_imports_nothing_of_the_place_where_it_starts(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('taken')")
    words = [
        *confined(root, tmp_path),
        "python3.11",
        "-c",
        "import os; os.chdir('/run/kbe-nat'); "
        "os.execve('/usr/bin/kbe-nat', ['kbe-nat', '-h'], {'PYTHONPATH': '/run/kbe-nat'})",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Usage: kbe-nat" in done.stdout


def test_doctor_finds_the_programs_and_packages_that_the_proxy_needs(
    root: Path, tmp_path: Path
) -> None:
    done = run(root, tmp_path, "kbe-nat", "doctor")
    assert done.stderr == ""
    lines = dict(re.findall(r"(?m)^(\S+(?: \S+)*) {2,}(ok|note|bad)\b", done.stdout))
    assert (lines["privilege"], lines["commands"], lines["packages"]) == ("ok", "ok", "ok")
    assert "iptables, iptables-restore, ipset, nft, ip are here" in done.stdout


CAPABILITIES = {
    DatapathKind.FIRST_PACKET: "12",
    DatapathKind.CACHED: "12,38,39",
    DatapathKind.EVERY_PACKET: "12,13",
}
"""As the manifests give them: CAP_NET_RAW for iptables alone, CAP_PERFMON and CAP_BPF for the cache
of flows.
"""


class Contained(Daemon):
    """A daemon in the image's root."""

    root = Path()
    user = 0

    def command(self, *arguments: str) -> tuple[str, ...]:
        outside = confined(self.root, self.folder, self.user, CAPABILITIES[self.datapath])
        flags = ("--manifests", "/etc/kbe-nat", "--datapath", str(self.datapath))
        return (*self.cluster.node.prefix, *outside, "kbe-nat", "proxy", *flags, *arguments)


@pytest.fixture(params=list(DatapathKind), ids=str)
def datapath(request: pytest.FixtureRequest) -> DatapathKind:
    kind: DatapathKind = request.param
    return kind


@pytest.fixture(params=[0, 65534], ids=["root", "nobody"])
def contained(
    request: pytest.FixtureRequest,
    root: Path,
    cluster: Cluster,
    tmp_path: Path,
    datapath: DatapathKind,
) -> Iterator[Contained]:
    tmp_path.chmod(0o755)
    (tmp_path / "objects").mkdir()
    with Contained(cluster, tmp_path, datapath) as own:
        own.root, own.user = root, request.param
        yield own


@FAMILIES
def test_the_daemon_serves_real_packets_from_it(contained: Contained, family: Family) -> None:
    cluster = contained.cluster
    add_ipv6(cluster)
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)
        served(pod, UDP_ECHO, str(family))
    vip, [pod_address, _] = VIPS[family], PODS[family]
    kind = "IPv6" if family == Family.IPV6 else "IPv4"
    contained.write("echo.yaml", OBJECTS.format(vip=vip, type=kind, pod=pod_address))
    contained.start()

    def answer(kind: socket.SocketKind, port: int) -> bool:
        def ask() -> bytes:
            domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
            with socket.socket(domain, kind) as client:
                client.settimeout(2)
                client.connect((vip, port))
                client.send(b"hello")
                return client.recv(100)

        with suppress(OSError):
            return inside(cluster.client.path, ask) == b"hello"
        return False

    eventually(lambda: answer(socket.SOCK_STREAM, 81))
    eventually(lambda: answer(socket.SOCK_DGRAM, 7))
    assert contained.get("services")
    assert contained.process is not None
    status = Path(f"/proc/{contained.process.pid}/status").read_text()
    assert re.search(r"(?m)^CapEff:\s+0*1000$", status)
    assert re.search(rf"(?m)^Uid:\s+{contained.user}\b", status)
    assert contained.end() < 10
    assert contained.process.returncode == 0, contained.log
