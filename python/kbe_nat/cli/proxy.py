"""`kbe-nat proxy`: the node proxy, in kube-proxy's place."""

from typing import Annotated

import typer

from kbe_nat.cli.flags.options import warn
from kbe_nat.cli.flags.parameters import flag_values, takes_flags
from kbe_nat.cli.flags.proxy import PROXY_FLAGS
from kbe_nat.daemon import privileges
from kbe_nat.daemon.composition import build, clean_up
from kbe_nat.daemon.logs import log_to_stderr
from kbe_nat.daemon.node_pages import flag_text
from kbe_nat.daemon.settings import Settings
from kbe_nat.daemon.standard_error import make_stderr_nonblocking
from kbe_nat.errors import PrivilegeError, SettingError


@takes_flags(settings=PROXY_FLAGS)
def proxy(
    settings: Settings,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print exactly what would be put into the kernel, and end."),
    ] = False,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Take all rules of ours out of the kernel, and end.")
    ] = False,
) -> None:
    """Serve the Services of a directory on this node: divert their packets, translate them, follow
    changes.

    Needs CAP_NET_ADMIN and gives up every other privilege, but for CAP_NET_RAW that iptables'
    commands want with every-packet. SIGTERM, SIGINT and SIGHUP end it and take the rules away;
    SIGUSR2 ends it for a restart, and leaves them. Connections are kept for the next start; drains,
    and strategies that were set while it ran, are not.

    See also: kbe-nat doctor.
    """
    make_stderr_nonblocking()
    log_to_stderr(settings.logs.form, settings.logs.verbosity)
    if dry_run and cleanup:
        raise SettingError("--dry-run", "it prints what would be put in, not what is taken out")
    if not dry_run and not privileges.effective() >> privileges.CAP_NET_ADMIN & 1:
        raise PrivilegeError("CAP_NET_ADMIN is needed: run as root, or give it this capability")
    if cleanup:
        clean_up(settings)
    elif dry_run:
        print(build(settings).render(warn), end="")
    else:
        values = flag_values(PROXY_FLAGS, settings)
        build(settings, flags={flag: flag_text(value) for flag, value in values}).run()
