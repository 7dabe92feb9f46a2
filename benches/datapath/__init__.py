"""Ways through a node, on real packets between network namespaces."""
