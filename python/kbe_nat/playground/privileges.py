"""The privilege to make namespaces: root's, or that of root in a user namespace of one's own."""

import os
import subprocess
import sys
from typing import Final

from kbe_nat.errors import PlaygroundError

UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--net", "--mount")
INSIDE: Final = "KBE_NAT_INSIDE_USER_NAMESPACE"


def ensure_root(purpose: str) -> None:
    """Return as root. As another user begin the command again as root of a user namespace, with a
    mount namespace in which /run is ours. Raises `PlaygroundError` where users may make none;
    `purpose` is what root is needed for.
    """
    if os.geteuid() == 0:
        return
    if INSIDE in os.environ:
        raise PlaygroundError(f"{purpose}: the user namespace does not make us root")
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip()
        raise PlaygroundError(
            f"{purpose}: root is needed, or a system that lets users make namespaces: {reason}"
        ) from None
    script = 'mount -t tmpfs tmpfs /run && exec "$0" "$@"'
    command = (*UNSHARE, "sh", "-c", script, sys.executable, "-m", "kbe_nat", *sys.argv[1:])
    os.environ[INSIDE] = "1"
    os.execvp(command[0], command)
