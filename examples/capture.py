"""Which backends the connections of a capture would get, and why:

python examples/capture.py examples/simpleservice/cluster.yaml examples/traffic.pcap
"""

import sys
from collections import Counter

import kbe_nat
from kbe_nat.drivers.capture import CaptureQueue

if len(sys.argv) != 3:
    raise SystemExit("usage: python examples/capture.py OBJECTS.yaml CAPTURE")
objects, capture = sys.argv[1:]
engine = kbe_nat.load(objects, node_addresses=["10.0.2.15"], strategy="rr", seed=1)
with CaptureQueue(capture) as queue:
    kbe_nat.Loop(engine, queue).run()
connections = Counter(decision.backend for decision in engine.decisions())
for backend, count in sorted(connections.items(), key=str):
    print(f"{count} connections to {backend[0]}:{backend[1]}" if backend else f"{count} refused")
first = engine.decisions(limit=1)[0]
print(f"the last one: {first.client[0]}:{first.client[1]} by {first.choice}")
