"""Rules, sets and maps of the kernel: what they say, and how they get there."""
