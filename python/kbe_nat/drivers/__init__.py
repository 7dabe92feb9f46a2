"""Drivers: where packets come from and where verdicts go."""
