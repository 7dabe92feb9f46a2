"""Rules, sets and maps of the kernel: their values, and how they get into it."""
