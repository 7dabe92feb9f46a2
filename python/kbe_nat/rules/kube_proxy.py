"""Whether kube-proxy's rules are on this node too: then two proxies decide about the same Services."""

from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.rules.commands import Runner


def kube_proxy_rules(runner: Runner) -> tuple[str, ...]:
    """Where kube-proxy's rules stand, for people; empty where there are none, or nobody can tell.

    Changes nothing: without `-t`, iptables-save lists the tables that are there, and makes none.
    Cost: four commands.
    """
    found = []
    for command, line, place in PLACES:
        try:
            listed = runner.run(command)
        except RulesError:
            # Another back end's command is missing, or the privilege: it is said where it is
            # needed.
            continue
        if any(own.startswith(line) for own in listed.splitlines()):
            found.append(place)
    return tuple(found)


PLACES: Final = (
    (("nft", "list", "tables"), "table ip kube-proxy", "nft's table ip kube-proxy"),
    (("nft", "list", "tables"), "table ip6 kube-proxy", "nft's table ip6 kube-proxy"),
    (("iptables-save",), ":KUBE-SERVICES ", "iptables' chain KUBE-SERVICES"),
    (("ip6tables-save",), ":KUBE-SERVICES ", "ip6tables' chain KUBE-SERVICES"),
)
