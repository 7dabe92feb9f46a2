"""Whether kube-proxy's rules are on this node too. If so, two proxies decide about the same
Services.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.rules import nft_tables
from kbe_nat.rules.commands import Runner


def kube_proxy_rules(runner: Runner) -> tuple[str, ...]:
    """Where kube-proxy's rules are, for people; empty where there are none, and where no command
    can list them: `Surroundings.unread` says which are refused.

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


def kube_proxy_processes() -> list[int]:
    """Processes of kube-proxy in this network namespace, as far as /proc shows them."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end while we look.
        with suppress(OSError):
            is_named = (folder / "comm").read_text().strip() == "kube-proxy"
            if is_named and (folder / "ns/net").readlink() == Path("/proc/self/ns/net").readlink():
                processes.append(int(folder.name))
    return sorted(processes)


PLACES: Final = (
    (nft_tables.LIST, "table ip kube-proxy {", "nft's table ip kube-proxy"),
    (nft_tables.LIST, "table ip6 kube-proxy {", "nft's table ip6 kube-proxy"),
    (("iptables-save",), ":KUBE-SERVICES ", "iptables' chain KUBE-SERVICES"),
    (("ip6tables-save",), ":KUBE-SERVICES ", "ip6tables' chain KUBE-SERVICES"),
)
