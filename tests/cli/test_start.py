"""The command's start: it imports no more than it needs, and Ctrl-C is answered by no words."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest

import kbe_nat
from harness.full_engine import VIP, controller_with, verbs_of
from harness.verbs import SEED
from kbe_nat.cli import GROUPS, VERBS, app
from kbe_nat.cli.verb import VerbCommand
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Node, Service, ServicePort, SlicePort, Snapshot

PACKAGES = {"click", "msgspec", "yaml", "inotify_simple", "aiohttp", "prometheus_client"}
"""Those of the installation, with the extra of the proxy."""
LIGHT = {"kbe_nat", "kbe_nat.__main__", "kbe_nat.interrupt", "kbe_nat.cli_words", "kbe_nat._native"}


OF_OS = {
    "os.path",
    "stat",
    "_stat",
    "posixpath",
    "genericpath",
    "posix",
    "abc",
    "_abc",
    "_collections_abc",
}
"""What `os` imports, where the interpreter has not imported it."""


def modules_after(program: str) -> set[str]:
    told = subprocess.check_output(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(); print(*sys.modules)"], text=True
    )
    return {name.partition(".")[0] for name in told.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "program",
    [
        "import kbe_nat",
        "import kbe_nat; kbe_nat.Engine(seed=1), kbe_nat.KbeNatError, kbe_nat.__version__",
        "from kbe_nat.__main__ import main; main(['--version'])",
    ],
)
def test_the_engine_and_the_version_import_no_package(program: str) -> None:
    assert modules_after(program) & PACKAGES == set()


VERB_WORDS = [f"{verb} --" for verbs in GROUPS.values() for verb in verbs]


def completed(line: str, shell: str = "bash", program: str = "main()") -> list[str]:
    """What the shell is told for a line with the cursor at its end."""
    words = line.split()
    environment = {
        **os.environ,
        "_KBE_NAT_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": f"kbe-nat {line}",
        "COMP_CWORD": str(len(words) + line.endswith(" ") if words else 1),
    }
    if shell == "fish":
        environment["COMP_CWORD"] = "" if line.endswith(" ") else words[-1]
    return subprocess.check_output(
        [sys.executable, "-c", f"from kbe_nat.__main__ import main; {program}"],
        text=True,
        env=environment,
    ).splitlines()


@pytest.mark.parametrize("line", ["", "p", *VERB_WORDS, "lab run -", "get s", "proxy --strategy "])
def test_completion_imports_no_verb_and_no_package(line: str) -> None:
    program = "import sys; main(); print(); print(*sys.modules)"
    *words, modules = completed(line, program=program)
    loaded = {name for name in modules.split() if name.startswith("kbe_nat")}
    assert loaded <= LIGHT
    assert {name.partition(".")[0] for name in modules.split()} & PACKAGES == set()
    assert len(words) > 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pr", ["proxy"]),
        ("get s", ["services", "stats", "status"]),
        ("get svc -o json --no", ["--no-headers"]),
        ("strategy set web w", ["wrr", "wlc"]),
        ("strategy s", ["set"]),
        ("proxy --strategy w", ["wrr", "wlc"]),
        ("proxy --strategy=w", ["wrr", "wlc"]),
        ("dump --format ", ["iptables-save", "nft"]),
        ("lab run --dir", ["--directory"]),
        ("get svc -o ", ["text", "wide", "yaml", "json", "name", "jsonpath="]),
        ("get svc -o j", ["json", "jsonpath="]),
        ("playground get pods -o y", ["yaml"]),
        ("drain 10.0.0.1 -o ", ["text", "yaml", "json", "jsonpath="]),
        ("conntrack -L -o ", ["extended", "timestamp", "ktimestamp", "id", "json", "yaml"]),
        ("conntrack -p t", ["tcp"]),
        ("explain --live -p ", ["tcp", "udp", "sctp"]),
        ("conntrack -u UN", ["UNREPLIED"]),
        ("proxy --datapath f", ["first-packet"]),
        ("explain --live --fr", ["--from"]),
        ("proxy --kubec", ["--kubeconfig"]),
        ("proxy 'half ", []),
    ],
)
def test_words_are_completed(line: str, words: list[str]) -> None:
    for shell in ("bash", "fish"):
        told = [each.partition("\t")[0] for each in completed(line, shell)]
        assert told == [f"plain,{word}" for word in words], shell


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A daemon that serves default/web and shop/web:http, whose Node is n1."""
    controller = controller_with(3)
    controller.apply(
        Snapshot(
            2,
            (
                Service("default", "web", (VIP,), (ServicePort("", "udp", 80),)),
                Service("shop", "web", ("172.30.0.2",), (ServicePort("http", "tcp", 80),)),
                Service("shop", "api", ("172.30.0.3",), (ServicePort("http", "tcp", 80),)),
            ),
            {
                ("default", "web"): (
                    EndpointSlice(
                        "web-1",
                        Family.IPV4,
                        (SlicePort("", "udp", 9876),),
                        (Endpoint("10.0.0.1"),),
                    ),
                )
            },
            {"n1": Node("n1", ("192.0.2.1",), "za")},
        )
    )
    with ControlServer(tmp_path / "control.sock", verbs_of(controller)):
        monkeypatch.setenv("KBE_NAT_SOCKET", str(tmp_path / "control.sock"))
        yield tmp_path / "control.sock"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("get svc ", ["web", "shop/api", "shop/web"]),
        ("get svc w", ["web"]),
        ("get ep web ", ["web", "shop/api", "shop/web"]),
        ("get svc -n shop ", ["api", "web"]),
        ("get svc --namespace=shop w", ["web"]),
        ("get svc/sh", ["svc/shop/api", "svc/shop/web"]),
        ("get svc shop/web:", ["shop/web:http"]),
        ("get no ", ["n1"]),
        ("get stats ", []),
        ("get svc -n s", ["shop"]),
        ("describe svc shop/w", ["shop/web"]),
        ("describe service/w", ["service/web"]),
        ("describe svc web -o ", ["text", "yaml", "json", "jsonpath="]),
        ("top sh", ["shop/api", "shop/web"]),
        ("decisions svc/w", ["svc/web"]),
        ("conntrack -L -f ipv4 --service w", ["web"]),
        ("strategy set w", ["web"]),
        ("drain ", ["web", "shop/api", "shop/web", "10.0.0.1:9876"]),
        ("drain 10", ["10.0.0.1:9876"]),
        ("explain --live --to w", ["web"]),
        (f"explain -f {SEED} --to ", ["simpleservice"]),
        (f"explain -f {SEED} --to svc/", ["svc/simpleservice"]),
        ("explain -f /nonexistent --to ", []),
        ("get svc --socket /nonexistent ", []),
    ],
)
def test_names_are_completed(served: Path, line: str, words: list[str]) -> None:
    # A busy machine is waited for.
    program = "import kbe_nat.cli_names; kbe_nat.cli_names.SECONDS = 30.0; main()"
    for shell in ("bash", "fish"):
        told = [each.partition("\t")[0] for each in completed(line, shell, program)]
        assert told == [f"plain,{word}" for word in words], shell


def test_ctrl_c_is_armed_before_anything_takes_time() -> None:
    """A library that is imported ahead of it is a time in which Ctrl-C prints a traceback."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)"
    program += "; import kbe_nat.__main__; print(*(set(sys.modules) - before))"
    folder = str(Path(kbe_nat.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", program, folder]
    loaded = subprocess.check_output(command, text=True).split()
    assert {name for name in loaded if not name.startswith("kbe_nat")} <= {"_signal", "os", *OF_OS}
    assert set(loaded) & {"signal", "enum", "collections", "typing", "re"} == set()


def test_shells_get_helps_and_files() -> None:
    assert completed("prox", "zsh") == ["plain", "proxy", GROUPS["Serve"]["proxy"]]
    assert completed("replay -f ./ob") == ["file,./ob"]
    assert completed("replay ./in") == ["file,./in"]
    assert completed("replay ", "tcsh") == []


def test_every_verb_has_examples() -> None:
    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for inner, each in command.commands.items():
                yield from walk(f"{name} {inner}", each)
        else:
            yield name, command

    for verb in VERBS:
        for name, command in walk(verb, app.commands[verb]):
            assert isinstance(command, VerbCommand)
            assert command.examples, name
            assert all("kbe-nat" in example for example in command.examples), name


@pytest.mark.parametrize("arguments", [["--help"], ["help"], []])
def test_the_help_imports_no_verb(arguments: list[str]) -> None:
    program = f"from kbe_nat.__main__ import main; main({arguments})"
    assert modules_after(program) & PACKAGES == {"click"}


@pytest.mark.parametrize("module", ["kbe_nat._native", "click", "kbe_nat.cli.verb", "msgspec"])
def test_ctrl_c_while_a_module_is_imported(module: str) -> None:
    program = (
        "import os, signal, sys\n"
        "class Interruption:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interruption())\n"
        "from kbe_nat.__main__ import main\n"
        f"sys.argv[1:] = ['explain', '-f', {SEED!r}, '--from', '10.0.0.1', '--to', '10.0.0.2:80']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_a_verb_runs() -> None:
    verb = subprocess.Popen(
        [sys.executable, "-m", "kbe_nat", "explain", "-f", "-", "--from", "a", "--to", "b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with verb:
        assert verb.stdin and verb.stdout and verb.stderr
        # More than a pipe holds: it is written when the verb reads its objects.
        verb.stdin.write(b"# nothing\n" * 100_000)
        # Between two reads of the pipe CPython does not look for signals: it is pressed again.
        end = time.monotonic() + 30
        while verb.poll() is None and time.monotonic() < end:
            verb.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                verb.wait(0.1)
        # Once the interpreter ends it has no handler any more, and the kernel ends it: a shell
        # says 130 to both.
        assert verb.returncode in (130, -signal.SIGINT)
        assert (verb.stdout.read(), verb.stderr.read()) == (b"", b"")
