"""As sitecustomize of a daemon: Services go back from the kernel's choice after five seconds with
few new connections, in place of thirty.
"""

from kbe_nat.control import auto_choice

if "sitecustomize" in __name__:
    auto_choice.CALM_SECONDS = 5.0  # type: ignore[misc]
    auto_choice.CALM_LOOK = 0.5  # type: ignore[misc]
