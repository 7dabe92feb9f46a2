"""The lab on real packets: ways through a node, measured side by side in network namespaces.

- `objects`, `network`: the Services that are measured, and the wires between client, node and pods;
- `traffic`: servers and clients (`kbe_nat._native`, `rust/traffic`), each inside a namespace;
- `ways`: where translation happens: one `Way` a kind, from plain forwarding to a userspace proxy.
"""
