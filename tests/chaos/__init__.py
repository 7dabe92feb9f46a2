"""Everything that may happen to a node, at random: `python -m chaos.run` in `tests`."""
