"""Our own code behind the interfaces of other packages.

- `kbe_nat.compat.netfilterqueue`: the interface of the netfilterqueue package.
"""
