"""A node, a Service and an endpoint, for tests of planning."""

from kbe_nat.model import Endpoint, Node, Service, ServicePort

READY = Endpoint("10.0.0.1", "here")
NODE = Node("here", ("192.168.0.2", "192.168.1.2", "2001:db8::2"), "zone-a", ("10.0.0.0/24",))
WEB = Service("shop", "web", ("172.30.0.1",), (ServicePort("", "tcp", 80),))
