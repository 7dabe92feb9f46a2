"""Damage to the code that tests must notice: `python -m mutants.mutate` in `tests`."""
