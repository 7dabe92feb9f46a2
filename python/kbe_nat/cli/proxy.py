"""`kbe-nat proxy`: the node proxy, in kube-proxy's place."""

import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import click

from kbe_nat.cli.flags.command_line import (
    ProxyCommand,
    command_line,
    configuration_file,
    effective_text,
    flag_texts,
)
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import warn
from kbe_nat.cli.flags.proxy import PROXY_FLAGS
from kbe_nat.cli.verb import verb
from kbe_nat.daemon import privileges
from kbe_nat.daemon.composition import build, clean_up, initialise
from kbe_nat.daemon.logs import log_to_stderr
from kbe_nat.daemon.settings import Settings
from kbe_nat.daemon.standard_error import make_stderr_nonblocking
from kbe_nat.errors import PrivilegeError, RulesError, SettingError
from kbe_nat.extras import require
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.kube_proxy_remains import clean_up_kube_proxy

CleanupKubeProxy: TypeAlias = Annotated[
    bool,
    Flag(
        "--cleanup-kube-proxy",
        help="Take what an ended kube-proxy has left out of the kernel, and end; with --dry-run"
        " print the commands.",
    ),
]
InitOnly: TypeAlias = Annotated[
    bool,
    Flag(
        "--init-only",
        help="Set what serving needs more privileges for than CAP_NET_ADMIN, and end.",
    ),
]
WriteConfigTo: TypeAlias = Annotated[
    Path | None,
    Flag(
        "--write-config-to",
        help="Write the configuration in force to this file, defaults included, and end; -"
        " stands for standard output.",
    ),
]


@verb(kind=ProxyCommand, settings=PROXY_FLAGS)
def proxy(
    context: click.Context,
    settings: Settings,
    dry_run: Annotated[
        bool,
        Flag("--dry-run", help="Print what would be put into the kernel, as text, and end."),
    ] = False,
    cleanup: Annotated[
        bool, Flag("--cleanup", help="Remove all rules of kbe-nat from the kernel, and end.")
    ] = False,
    init_only: InitOnly = False,
    write_config_to: WriteConfigTo = None,
    cleanup_kube_proxy: CleanupKubeProxy = False,
) -> None:
    """Serve the Services of an API server or of files on this node: divert their packets, translate
    them, follow changes.

    Needs CAP_NET_ADMIN and gives up every other privilege, except CAP_NET_RAW, which iptables needs
    with every-packet. SIGTERM, SIGINT and SIGHUP end it and take the rules away;
    SIGUSR2 ends it for a restart, and leaves them. Connections are kept for the next start; drains,
    and strategies that were set while it ran, are not.

    Every flag of kube-proxy 1.36 is taken by its name, in Go's syntax too; a warning names what
    does not apply here. See docs/configuration.md, and kbe-nat doctor.

    Examples:
      kbe-nat proxy --manifests /etc/kbe-nat/objects
      kbe-nat proxy --manifests objects --dry-run
      kbe-nat proxy --config /var/lib/kube-proxy/config.conf --hostname-override node-1
      kbe-nat proxy --cleanup
    """
    make_stderr_nonblocking()
    line = command_line(context, settings)
    settings, notes = line.settings()
    log_to_stderr(settings.logs.form, settings.logs.verbosity)
    for note in notes:
        LOG.warning("%s", note)
    if write_config_to is not None:
        _write(write_config_to, effective_text(settings))
        return
    _check(dry_run=dry_run, cleanup=cleanup, cleanup_kube_proxy=cleanup_kube_proxy)
    if init_only:
        initialise(settings)
        return
    if cleanup_kube_proxy:
        text = clean_up_kube_proxy(Commands(), is_dry=dry_run)
        print(text or "# no rules of kube-proxy were here\n", end="")
    elif cleanup:
        remains = clean_up(settings)
        print("\n".join(f"removed: {each}" for each in remains) or "no rules of kbe-nat were here")
    elif dry_run:
        print(_rendered(settings), end="")
    else:
        require("proxy", "kbe-nat proxy")
        build(settings, flags=flag_texts(settings), file=configuration_file(line)).run()


def _check(*, dry_run: bool, cleanup: bool, cleanup_kube_proxy: bool) -> None:
    """Raises `SettingError` for tasks that exclude each other, `PrivilegeError`."""
    if dry_run and cleanup:
        raise SettingError("--dry-run", "it prints what would be put in, not what is taken out")
    if cleanup and cleanup_kube_proxy:
        raise SettingError("--cleanup-kube-proxy", "--cleanup takes out our rules: one at a time")
    if not dry_run and not _is_privileged():
        raise PrivilegeError(f"CAP_NET_ADMIN is needed: {PRIVILEGE_WAY}")


def _is_privileged() -> bool:
    return bool(privileges.effective() >> privileges.CAP_NET_ADMIN & 1)


def _rendered(settings: Settings) -> str:
    """What would be put into the kernel. Raises as `build` does; `PrivilegeError` where the kernel
    may not be asked what it can do.
    """
    try:
        return build(settings).render(warn)
    except RulesError:
        if _is_privileged():
            raise
        # The commands that ask would be blamed for it, each in words of its own.
        need = "CAP_NET_ADMIN is needed, to ask the kernel what it can do"
        raise PrivilegeError(f"{need}: {PRIVILEGE_WAY}") from None


def _write(path: Path, text: str) -> None:
    """The text as the whole content of a file, which is not seen half written where its directory
    lets another file take its place. Raises OSError.
    """
    if str(path) == "-":
        sys.stdout.write(text)
        return
    # A link stays, and the file that it leads to is written.
    path = Path(os.path.realpath(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # A loop of links fails, and a device is written.
        path.write_text(text)
        return
    copy = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        copy.write_text(text)
        if path.exists():
            shutil.copymode(path, copy)
        copy.replace(path)
    except OSError:
        # A file of a container may be mounted alone, in a directory that cannot be written.
        if not path.is_file():
            raise
        path.write_text(text)
    finally:
        with suppress(OSError):
            copy.unlink(missing_ok=True)


PRIVILEGE_WAY: Final = "run as root, or give it this capability"
LOG: Final = logging.getLogger("kbe_nat.daemon")
