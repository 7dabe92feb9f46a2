"""Flows as a data frame, by the Arrow C stream interface (`pip install polars`):

python examples/table.py examples/simpleservice/cluster.yaml
"""

import sys

import polars

import kbe_nat
from kbe_nat.packets import opening

if len(sys.argv) != 2:
    raise SystemExit("usage: python examples/table.py OBJECTS.yaml")
engine = kbe_nat.load(sys.argv[1], node_addresses=["10.0.2.15"], strategy="rr", seed=1)
for port in range(1024, 1124):
    engine.process(opening("tcp", ("10.0.2.100", port), ("172.30.228.255", 80)), now=0)
flows = polars.DataFrame(engine.flows_table())
print(flows.group_by("reply_source_address").len().sort("reply_source_address"))
