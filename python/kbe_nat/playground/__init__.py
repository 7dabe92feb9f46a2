"""The example cluster on one machine: a node, a client and the pods, each a network namespace."""
