"""What `doctor` says, and `auto` does, where something is missing for a flow cache."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from harness.cached import cached_node, talk
from harness.cached_router import skip_without_cache
from kbe_nat._native import FlowCache
from kbe_nat.daemon import composition
from kbe_nat.daemon.composition import _choice
from kbe_nat.daemon.settings import DatapathSettings, Settings
from kbe_nat.errors import FlowCacheError, RulesError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

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


@pytest.mark.parametrize(
    ("lost", "datapath", "reason"),
    [
        (
            "chown",
            "cached",
            "the kernel has nft NAT maps, conntrack events and programs on devices",
        ),
        ("bpf", "first-packet", "cached is not to be had here: the flow cache: CAP_BPF is needed"),
        (
            "perfmon",
            "first-packet",
            "cached is not to be had here: the flow cache: CAP_PERFMON is needed",
        ),
    ],
)
def test_auto_takes_cached_where_nothing_is_missing_and_says_why(
    tmp_path: Path, lost: str, datapath: str, reason: str
) -> None:
    with cached_node(tmp_path) as daemon:
        daemon.wrapper = ("setpriv", f"--bounding-set=-sys_admin,-{lost}")
        daemon.start("--datapath", "auto")
        status = daemon.get("status")
        assert status["datapath"] == datapath
        assert reason in status["datapath_reason"]
        assert f"datapath {datapath}: {status['datapath_reason']}" in daemon.log
        with talk(daemon, Family.IPV4, "udp") as own:
            assert own.ask() == "a"


def test_auto_does_without_a_cache_that_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(max_flows: int) -> FlowCache:
        raise FlowCacheError(f"no room for {max_flows}")

    skip_without_cache()
    monkeypatch.setattr(composition, "FlowCache", refuse)
    with Namespace(f"kbe-lack-{os.getpid()}") as node:
        build = partial(_choice, commands=Commands(node.prefix))
        kind, reason, cache = inside(node.path, partial(build, Settings()))
        assert (kind, cache) == (DatapathKind.FIRST_PACKET, None)
        assert "no room for 65536" in reason
        asked = Settings(datapath=DatapathSettings(kind=DatapathKind.CACHED))
        with pytest.raises(RulesError, match="the datapath cached does not work here: no room"):
            inside(node.path, partial(build, asked))
