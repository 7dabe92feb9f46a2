"""Verbs that read objects: errors of files and objects, and clusters without Services."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from harness.verbs import SEED, VIP, Ran
from kbe_nat.daemon import privileges
from kbe_nat.daemon.settings import Settings
from kbe_nat.errors import RulesError

VERBS = pytest.mark.parametrize(
    "verb",
    [
        ("explain", "--from", "10.0.2.15", "--to", f"{VIP}:80"),
        ("dump",),
        ("diff", "saved"),
        ("replay", "in.pcap"),
        ("shadow", "--existing"),
    ],
    ids=lambda verb: verb[0],
)
"""Verbs that read objects once, with what they ask for beside them."""


def test_a_wrong_field_is_named_with_file_object_and_path(
    kbe: Ran, capture: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(SEED).read_text().replace("port: 80", "port: 80000"))
    code, _, err = kbe("replay", "-f", wrong, capture)
    assert code == 2
    assert f"{wrong}, document 1: Service default/simpleservice: spec.ports[0].port" in err


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "there is no Service in it"),
        (Path(SEED).read_text().replace("port: 80", "port: 80000"), "spec.ports[0].port"),
    ],
    ids=["none", "refused"],
)
def test_without_services_rules_are_a_frame_and_packets_pass(
    kbe: Ran, capture: Path, tmp_path: Path, objects: str, said: str
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(objects)
    for form, frame in (("iptables-save", "-j KUBE-MARK-MASQ"), ("nft", "goto")):
        code, out, err = kbe("dump", "-f", path, "--format", form, "--lenient")
        assert (code, said in err) == (0, True)
        assert "KUBE-FORWARD" in out or "chain services" in out
        assert frame not in out, "nothing is served"
    code, out, _ = kbe(
        "explain", "-f", path, "--from", "10.0.2.15", "--to", f"{VIP}:80", "--lenient"
    )
    assert (code, "passes." in out) == (0, True)
    assert kbe("dump", "-f", path)[0] == (2 if "port: 80000" in objects else 0)
    # A capture without a Service tells nothing.
    code, _, err = kbe("replay", "-f", path, capture)
    assert (code, said in err) == (2, True)


@pytest.mark.parametrize("text", [b"", b"\n \n"], ids=["nothing", "blank"])
@pytest.mark.parametrize("stream", ["-", "/dev/stdin"])
@VERBS
def test_a_stream_without_a_byte_is_no_empty_cluster(
    capture: Path, verb: tuple[str, ...], stream: str, text: bytes
) -> None:
    """The command before the pipe has failed."""
    capture.with_name("saved").write_text("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    done = subprocess.run(
        [sys.executable, "-m", "kbe_nat", *verb, "-f", stream],
        input=text,
        capture_output=True,
        cwd=capture.parent,
        check=False,
    )
    name = "standard input" if stream == "-" else stream
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"kbe-nat: {name}: it is empty\n"


KUBECONFIG = "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\n"


@VERBS
def test_f130_verbs_that_read_files_once_end_with_what_is_wrong(
    kbe: Ran, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    monkeypatch.chdir(capture.parent)
    Path("saved").write_text("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\nCOMMIT\n")
    folder = Path("objects")
    folder.mkdir()
    (folder / "good.yaml").write_text(Path(SEED).read_text())
    wrong = Path(SEED).read_text().replace("port: 80", "port: 80000")
    os.mkfifo("fifo")
    for text, said in (
        (
            wrong,
            "bad.yaml, document 1: Service default/simpleservice: spec.ports[0].port: expected int",
        ),
        ("a: [", "objects/bad.yaml, line 2, column 1: not YAML"),
        (
            KUBECONFIG,
            "objects/bad.yaml, document 1: Config: this is a kubeconfig, not a file of",
        ),
        (
            "&a\nkind: List\napiVersion: v1\nitems: [*a]",
            "items[0]: List: kind: a List in a List is not read",
        ),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}",
            "discovery.k8s.io/v1beta1 is not read",
        ),
    ):
        (folder / "bad.yaml").write_text(text)
        code, out, err = kbe(*verb, "-f", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
        if verb[0] == "shadow":
            # It would go on to the kernel's connections.
            continue
        code, _, err = kbe(*verb, "-f", folder, "--lenient")
        assert code in ((1, 2) if verb[0] == "diff" else (0,))
        assert said in err
    (folder / "bad.yaml").unlink()
    (folder / "bad.yaml").symlink_to("../fifo")
    code, _, err = kbe(*verb, "-f", folder)
    assert (code, "objects/bad.yaml: it is a FIFO, not a file" in err) == (2, True)
    code, _, err = kbe(*verb, "-f", "fifo", "--lenient")
    assert (code, "fifo: it is a FIFO, not a file" in err) == (2, True), (
        "what was named must be readable"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["no Service in objects: nothing is served"]),
        (
            KUBECONFIG,
            ["objects/a.yaml, document 1: Config: this is a kubeconfig", "no Service in objects"],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}",
            ["no Service in objects: nothing is served"],
        ),
        ("# nothing\n", ["no Service in objects: nothing is served"]),
    ],
    ids=["empty", "kubeconfig", "ConfigMap", "comment"],
)
def test_a_proxy_that_would_serve_nothing_says_so(
    kbe: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("objects").mkdir()
    if content is not None:
        Path("objects/a.yaml").write_text(content)
    code, _, err = kbe("proxy", "--manifests", "objects", "--dry-run")
    assert code == 0 and all(text in err for text in said)
    code, out, err = kbe("proxy", "--manifests", "objects", "--dry-run", "--strict")
    assert (code, out) == (2, "") and said[0] in err


def test_a_missing_path_is_refused_before_the_kernel_is_asked(
    kbe: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise RulesError("asked")

    monkeypatch.setattr("kbe_nat.daemon.composition.detect.choose", refuse)
    assert kbe("proxy", "--manifests", tmp_path)[2] == "kbe-nat: asked\n"
    absent = tmp_path / "absent"
    code, _, err = kbe("proxy", "--manifests", tmp_path, "--manifests", absent)
    assert (code, err) == (2, f"kbe-nat: {absent}: No such file or directory\n")


def test_a_dry_run_that_may_not_ask_the_kernel_names_the_privilege(
    kbe: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: Settings) -> NoReturn:
        raise RulesError("nft: cache initialization failed: Operation not permitted")

    monkeypatch.setattr("kbe_nat.cli.proxy.build", refuse)
    flags = ("proxy", "--manifests", str(tmp_path), "--dry-run")
    assert "cache initialization failed" in kbe(*flags)[2]
    monkeypatch.setattr(privileges, "effective", lambda: 0)
    code, _, err = kbe(*flags)
    needed = "kbe-nat: CAP_NET_ADMIN is needed, to ask the kernel what it can do: run as root"
    assert (code, err.startswith(needed)) == (2, True)


def test_a_dry_run_says_what_the_daemon_would_say(kbe: Ran, tmp_path: Path) -> None:
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: %s}\n---\n"
    (tmp_path / "nodes.yaml").write_text(node % "a-node" + node % "b-node")
    flags = ("--dry-run", "--datapath", "every-packet")
    _, _, told = kbe("proxy", "--manifests", SEED, "--manifests", tmp_path, *flags)
    assert "nothing tells which node this is (--node)" in told
    _, _, told = kbe(
        "proxy", "--manifests", SEED, "--manifests", tmp_path, "--node", "a-node", *flags
    )
    assert "which node" not in told
