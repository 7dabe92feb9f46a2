"""The node's own addresses, which come and go."""

import json

from kbe_nat.rules.execution import Runner


class LocalAddresses:
    """As they were when somebody looked last: to ask the kernel takes a command."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._found: list[str] | None = None

    def look(self) -> None:
        """Ask again. Raises `RulesError`."""
        devices = json.loads(self._runner.run(("ip", "-json", "address", "show")))
        self._found = [
            own["local"]
            for device in devices
            for own in device.get("addr_info", ())
            if own.get("scope") == "global" and "local" in own
        ]

    def found(self) -> list[str]:
        """Every address but loopback's and link-local ones. Raises as `look`, the first time."""
        if self._found is None:
            self.look()
        return self._found or []
