"""The live page at /: the Services of the node, and their traffic from second to second."""
