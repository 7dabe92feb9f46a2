"""Runs a command in a root as a container engine would for the Pod of `deploy/base`:
`confined.py USER CAPABILITIES ROOT CONFIG STATE COMMAND...`, in a mount namespace that `unshare
--mount` has made. CAPABILITIES are numbers with commas between.

The root and the kernel's settings are read-only, STATE is /run/kbe-nat, CONFIG is /etc/kbe-nat, and
no other capability can be got. Another user than 0 has them ambiently, as systemd gives them and
Kubernetes does not.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from kbe_nat.daemon import privileges

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 24, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITIES = 41


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def main() -> None:
    user, numbers, root, config, state, *command = sys.argv[1:]
    allowed = {int(number) for number in numbers.split(",")}
    mount("--bind", root, root)
    mount("-t", "tmpfs", "tmpfs", f"{root}/dev")
    for name in ("null", "urandom"):
        Path(root, "dev", name).touch()
        mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--bind", f"{root}/proc/sys", f"{root}/proc/sys")
    mount("-o", "remount,bind,ro", f"{root}/proc/sys")
    mount("-t", "sysfs", "-o", "ro", "sysfs", f"{root}/sys")
    mount("--bind", config, f"{root}/etc/kbe-nat")
    mount("-o", "remount,bind,ro", f"{root}/etc/kbe-nat")
    mount("--bind", state, f"{root}/run/kbe-nat")
    mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir("/")
    libc = ctypes.CDLL(None)
    for capability in range(CAPABILITIES):
        if capability not in allowed:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if user != "0":
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
        words = [sum(1 << n % 32 for n in allowed if n // 32 == place) for place in (0, 1)]
        header = privileges._Header(privileges.VERSION_3, 0)
        data = (privileges._Data * 2)(*(privileges._Data(word, word, word) for word in words))
        if libc.capset(ctypes.byref(header), data) != 0:
            raise OSError("capset")
        for capability in allowed:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    os.execve(f"/usr/bin/{command[0]}", command, {"PATH": "/usr/sbin:/usr/bin"})


if __name__ == "__main__":
    main()
