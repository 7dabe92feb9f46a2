"""What kube-proxy's `recent` lists say of clients, and for how long."""

from dataclasses import replace
from pathlib import Path

import pytest

from kbe_nat import Engine
from kbe_nat.daemon import inherited_affinity
from kbe_nat.daemon.inherited_affinity import Jiffies, inherit_affinity
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import names
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort

BACKENDS = (Backend("10.0.0.1", 80), Backend("10.0.0.2", 80))
PORT = PlannedPort(
    "default",
    "web",
    "",
    "tcp",
    Family.IPV4,
    (Frontend("cluster-ip", "172.30.0.1", 80),),
    BACKENDS,
    (),
    affinity_seconds=100,
)
UPTIME = 5000.0


def write_clock(proc: Path, second: int) -> int:
    """The files of a machine that is up for `UPTIME` seconds; returns its jiffies."""
    now = (1 << 32) + int((UPTIME - 300) * second)
    (proc / "timer_list").write_text(f"  .last_jiffies   : 7\njiffies: {now}\n")
    (proc / "uptime").write_text(f"{UPTIME} 1.0\n")
    return now


def remember(proc: Path, backend: Backend, *lines: str) -> None:
    folder = proc / "net/xt_recent"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / names.iptables_chain(names.ENDPOINT, PORT, backend)
    path.write_text("".join(f"src={line} oldest_pkt: 1 0\n" for line in lines))


def inherited(proc: Path, port: PlannedPort = PORT) -> tuple[int, int]:
    """Clients that were bound, and those that the engine remembers."""
    plan, engine = Plan((port,)), Engine(seed=1)
    engine.replace_services(*native_tables(plan))
    return inherit_affinity(engine, plan, proc), engine.stats().affinities


@pytest.mark.parametrize("second", [100, 250, 300, 1000])
def test_jiffies_are_read_whatever_the_kernel_was_built_with(tmp_path: Path, second: int) -> None:
    now = write_clock(tmp_path, second)
    jiffies = Jiffies.read(tmp_path)
    assert jiffies is not None
    assert (jiffies.ago(now - 70 * second), jiffies.ago(now + 5)) == (70, 0)


def test_f93_clients_of_kube_proxys_lists_stay_as_long_as_there(tmp_path: Path) -> None:
    now = write_clock(tmp_path, 250)
    young, old = now - 99 * 250, now - 101 * 250
    remember(
        tmp_path,
        BACKENDS[0],
        f"192.0.2.1 ttl: 64 last_seen: {young}",
        f"192.0.2.2 ttl: 64 last_seen: {old}",
    )
    remember(tmp_path, BACKENDS[1], f"192.0.2.3 ttl: 0 last_seen: {now}", "nonsense", "")
    assert inherited(tmp_path) == (2, 2)
    # The Service has no affinity any more, or another endpoint.
    assert inherited(tmp_path, replace(PORT, affinity_seconds=None)) == (0, 0)
    elsewhere = (Backend("10.0.0.9", 80), BACKENDS[1])
    assert inherited(tmp_path, replace(PORT, cluster_backends=elsewhere)) == (1, 1)


def test_f93_a_client_counts_as_seen_just_now_where_no_clock_tells(tmp_path: Path) -> None:
    remember(tmp_path, BACKENDS[0], "192.0.2.1 ttl: 64 last_seen: 17")
    assert inherited(tmp_path) == (1, 1)


def test_without_kube_proxy_there_is_nothing_to_inherit(tmp_path: Path) -> None:
    assert inherited(tmp_path) == (0, 0)


class Refusing:
    """Tables of a kernel that shows their names and no more."""

    def names(self, family: int) -> list[tuple[str, bool]]:
        return [("kube-proxy", False)]

    def addresses(self, table: object, name: str) -> list[tuple[str, float | None]]:
        raise RulesError("Interrupted system call")


def test_a_kernel_that_refuses_keeps_no_daemon_from_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inherited_affinity, "NftTables", Refusing)
    remember(tmp_path, BACKENDS[0], "192.0.2.1 ttl: 64 last_seen: 17")
    assert inherited(tmp_path) == (1, 1)
    assert "taken over in part: Interrupted system call" in caplog.text
