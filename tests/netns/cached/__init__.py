"""Tests of flows that the cache carries, by what stands around the node."""
