"""As sitecustomize of a daemon: Services go to the kernel's choice when a few packets wait, in
place of 128, so that they do on a busy machine too. They come back after five seconds with few new
connections, in place of thirty.
"""

from kbe_nat.control import auto_choice

if "sitecustomize" in __name__:
    auto_choice.BUSY_PACKETS = 8  # type: ignore[misc]
    auto_choice.CALM_SECONDS = 5.0  # type: ignore[misc]
    auto_choice.CALM_LOOK = 0.5  # type: ignore[misc]
