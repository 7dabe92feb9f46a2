"""What `doctor` says where a flow cache cannot be: each capability that is missing, by its name."""

import subprocess
import sys

import pytest

from harness.cached_router import skip_without_cache

ASK = "from kbe_nat.datapath.detect import cache_refusal; print(cache_refusal())"


def refusal(*words: str) -> str:
    """What a process under this command is told."""
    command = [*words, sys.executable, "-c", ASK]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("bpf", "CAP_BPF is needed, to make its maps and to load its programs"),
        ("net_admin", "CAP_NET_ADMIN is needed, to load programs for devices"),
        ("perfmon", "CAP_PERFMON is needed: without it the kernel guards each step"),
        ("chown", ""),
    ],
)
def test_a_missing_capability_is_named(lost: str, sentence: str) -> None:
    skip_without_cache()
    # CAP_SYS_ADMIN stands for each of them.
    said = refusal("setpriv", f"--bounding-set=-sys_admin,-{lost}")
    assert said.startswith(f"the flow cache: {sentence}") if sentence else not said


def test_capabilities_of_a_user_namespace_do_not_count() -> None:
    skip_without_cache()
    assert "capabilities of a user namespace" in refusal("unshare", "--user", "--map-root-user")
