"""The daemon at a large cluster: an API server's objects from the first byte to packets."""
