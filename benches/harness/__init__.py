"""Parts that the benchmarks share: the plan, processes, figures and reports."""
