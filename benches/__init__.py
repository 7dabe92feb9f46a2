"""Benchmarks: `python -m benches.engine`, `python -m benches.datapath.run`, ..."""
