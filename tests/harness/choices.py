"""Who chooses for connections: what a daemon says, and what comes to its queues."""

from harness.daemons import Daemon


def chosen(daemon: Daemon) -> int:
    """Frontends for which the kernel chooses."""
    number: int = daemon.get("stats")["kernel"]["frontends-chosen-by-kernel"]
    return number


def queued(daemon: Daemon) -> int:
    """Packets that ever came to the queues, of which each processor has one."""
    rows = daemon.cluster.node.call("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()
    return sum(int(row.split()[7]) for row in rows)
