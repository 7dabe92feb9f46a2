"""Prints the kernel's counters of its packet queues in this network namespace, one queue a line."""

from dataclasses import astuple

from kbe_nat.drivers.native import queue_counters

if __name__ == "__main__":
    for counters in queue_counters().values():
        print(*astuple(counters))
