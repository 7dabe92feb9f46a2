"""A daemon that was told that another one follows, ended by SIGTERM as kubelet ends a container."""

import signal

from harness.daemons import Daemon, kernel_rules


def test_after_a_handover_sigterm_leaves_the_rules(daemon: Daemon) -> None:
    before = kernel_rules(daemon.cluster)
    daemon.start()
    assert daemon.ask("handover") == "the rules stay when the daemon ends\n"
    rules = kernel_rules(daemon.cluster)
    assert daemon.end(signal.SIGTERM) < 5
    assert kernel_rules(daemon.cluster) == rules != before
    # The next daemon takes the rules over, and has not been told anything.
    daemon.start()
    assert daemon.end(signal.SIGTERM) < 5
    assert kernel_rules(daemon.cluster) == before
