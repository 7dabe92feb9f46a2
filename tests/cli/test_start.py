"""The command's start: it imports no more than it needs, and Ctrl-C is answered by no words."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from harness.verbs import SEED

PACKAGES = {"click", "msgspec", "yaml", "inotify_simple", "aiohttp", "prometheus_client"}
"""Those of the installation, with the extra of the proxy."""


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
