"""Whether kube-proxy's rules are on this node too. If so, two proxies decide about the same
Services.
"""

from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.rules.commands import Runner


def kube_proxy_rules(runner: Runner) -> tuple[str, ...]:
    """Where kube-proxy's rules are, for people; empty where there are none, and where no command
    can list them.

    Changes nothing: without `-t`, iptables-save lists the tables that are there, and makes none.
    Cost: four commands.
    """
    places = []
    for command, line, place in PLACES:
        try:
            listed = runner.run(command)
        except RulesError:
            # Where the command or the privilege is needed, its absence is an error.
            continue
        if any(text.startswith(line) for text in listed.splitlines()):
            places.append(place)
    return tuple(places)


PLACES: Final = (
    (("nft", "list", "tables"), "table ip kube-proxy", "nft's table ip kube-proxy"),
    (("nft", "list", "tables"), "table ip6 kube-proxy", "nft's table ip6 kube-proxy"),
    (("iptables-save",), ":KUBE-SERVICES ", "iptables' chain KUBE-SERVICES"),
    (("ip6tables-save",), ":KUBE-SERVICES ", "ip6tables' chain KUBE-SERVICES"),
)
