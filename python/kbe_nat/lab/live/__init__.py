"""The lab on real packets: ways through a node, measured side by side in network namespaces.

- `objects`, `network`: the Services that are measured, and the wires between client, node and pods;
- `traffic`: servers and clients (`kbe_nat._native`, `rust/traffic`), each inside a namespace;
- `ways`: where translation happens: one `Way` a kind, from plain forwarding to a userspace proxy;
- `scenario`, `cells`: what is measured of which way, and in which order;
- `methods`, `search`, `control`: how: RFC 2544 and RFC 9693, and the idle control of each round;
- `execution`, `tables`, `medians`, `pages`: cells into a run's folder, its tables, and reports.
"""
