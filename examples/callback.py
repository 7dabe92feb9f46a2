"""A NAT in a callback of the netfilterqueue package, for packets that a rule diverts:

    iptables -t mangle -A PREROUTING -d 172.30.228.255 -j NFQUEUE --queue-num 7
    iptables -t mangle -A PREROUTING -s 172.17.0.0/16 -j NFQUEUE --queue-num 7
    python examples/callback.py examples/simpleservice/cluster.yaml

Needs root, and `pip install netfilterqueue`. `kbe-nat proxy` does all of it, and faster.
"""

import sys

from netfilterqueue import NetfilterQueue, Packet

import kbe_nat

if len(sys.argv) != 2:
    raise SystemExit("usage: python examples/callback.py OBJECTS.yaml")
session = kbe_nat.Session(kbe_nat.load(sys.argv[1], node_addresses=["10.0.2.15"]))


def translate(packet: Packet) -> None:
    """The fate of one packet."""
    outcome = session.process(packet.get_payload(), interface=packet.indev)
    if outcome.packet is None:
        packet.drop()
    else:
        packet.set_payload(outcome.packet)
        packet.accept()


queue = NetfilterQueue()
queue.bind(7, translate)
print("serving", flush=True)
try:
    queue.run()
except KeyboardInterrupt:
    queue.unbind()
