"""Many packets in one call, made and looked at by numpy, without an object for each:

python examples/batch.py examples/simpleservice/cluster.yaml
"""

import sys

import numpy as np

import kbe_nat
from kbe_nat.packets import Packet

if len(sys.argv) != 2:
    raise SystemExit("usage: python examples/batch.py OBJECTS.yaml")
COUNT = 10_000
engine = kbe_nat.load(sys.argv[1], node_addresses=["10.0.2.15"], strategy="mh", seed=1)
syn = bytes(Packet("tcp", ("10.0.2.15", 0), ("172.30.228.255", 80), flags="S"))

# One row a packet: copies of one SYN, each from a port of its own.
packets = np.tile(np.frombuffer(syn, np.uint8), (COUNT, 1))
packets[:, 20:22] = np.arange(1024, 1024 + COUNT).astype(">u2").view(np.uint8).reshape(-1, 2)
offsets = np.arange(COUNT + 1, dtype=np.uint64) * len(syn)
buffer = bytearray(packets.tobytes())

# The checksum of a port that was put in afterwards is computed by the engine.
records = engine.process_batch(buffer, 0, offsets=offsets, incomplete_checksum=True)
actions = np.frombuffer(records, np.uint8).reshape(-1, 8)[:, 0]
names, counts = np.unique(actions, return_counts=True)
for name, count in zip(names, counts, strict=True):
    print(f"{count} packets: {kbe_nat.ACTIONS[name]}")
destinations = np.frombuffer(buffer, np.uint8).reshape(COUNT, -1)[:, 16:20]
for address, count in zip(*np.unique(destinations, axis=0, return_counts=True), strict=True):
    print(f"{count} packets to {'.'.join(map(str, address))}")
