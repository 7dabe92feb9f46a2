"""As sitecustomize of a daemon: about a hundred events of connection tracking wait for it, and the
kernel drops more.
"""

from kbe_nat.datapath import first_packet

if "sitecustomize" in __name__:
    first_packet.EVENT_BYTES = 1 << 16  # type: ignore[misc]
